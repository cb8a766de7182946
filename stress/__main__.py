"""`python -m stress`."""

import importlib.util
import signal
import sys

try:
    from stress.cli import main

    if importlib.util.find_spec("scipy") is None:  # which is loaded late
        raise ModuleNotFoundError(name="scipy")
except ModuleNotFoundError as error:
    print(
        f"python -m stress: {error.name} is missing; install saferocks with its extra: saferocks[stress]",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

if __name__ == "__main__":
    # So that a polite kill leaves a valid record as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
