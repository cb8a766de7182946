"""The child process of a leg: runs the scenario's code and writes what it sees to stdout.

The process that started it adds what can be seen from outside; see `stress.jobs`.
"""

from __future__ import annotations

import faulthandler
import sys

from stress.running import Leg
from stress.scenario import all_scenarios


def main(arguments: list[str]) -> None:
    """Run the leg that the arguments describe: scenario, leg, path, seconds, seed."""
    faulthandler.enable()  # whoever ends a leg that hangs wants to know where
    scenario, name, path, seconds, seed = arguments
    leg = Leg(name, path, float(seconds), int(seed), sys.stdout)
    leg.listen()
    all_scenarios()[scenario].run(leg)


if __name__ == "__main__":
    main(sys.argv[1:])
