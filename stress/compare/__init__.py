"""Two runs side by side: `python -m stress compare OLD NEW`.

Growth is per hour, so runs of different lengths can be compared. A regression is exit status 1;
docs/stress.md says what counts as one.
"""

from stress.compare.command import add_options, run

__all__ = ["add_options", "run"]
