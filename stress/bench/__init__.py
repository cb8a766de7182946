"""What saferocks costs beside bare rocksdict: `python -m stress bench`.

Both run in one process, in rounds that take turns, so that a noisy machine slows both; figures
are medians over the rounds. It is a report: only `--check` makes a figure over its budget count.
"""

from stress.bench.report import add_options, run

__all__ = ["add_options", "run"]
