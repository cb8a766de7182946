"""The page of a run: `python -m stress report RUN.json`, and at the end of every run.

`report.html` is one file that needs no other and no network. Its curves are drawn twice: as SVG,
for readers without JavaScript and for print, and by uPlot, which zooms.
"""

from stress.report.command import add_options, run, write_report

__all__ = ["add_options", "run", "write_report"]
