"""What saferocks costs beside bare rocksdict: `python -m stress bench`.

All columns run in one process, in rounds that take turns, so that a noisy machine slows all of them; figures are
medians over the rounds. docs/performance.md says what is measured, and how to read it.
"""

from stress.bench.report import add_options, run

__all__ = ["add_options", "run"]
