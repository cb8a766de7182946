"""`python -m saferocks` is the `saferocks` command."""

import sys

from saferocks._command import main

if __name__ == "__main__":
    sys.exit(main())
