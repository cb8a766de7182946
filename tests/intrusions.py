"""What comes in between two instructions of the package, at one moment after the other."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from types import FrameType


def run_with_intrusion(
    run: Callable[[], Any], intrude: Callable[[], None], moment: int, files: Container[str | None]
) -> bool:
    """Run with an intrusion before an instruction of some files; tells whether there was such an instruction.

    Args:
        run: What to run.
        intrude: What comes in between, once.
        moment: Before which instruction, counted from 0.
        files: The names of the files whose instructions count.
    """
    count, reached = 0, False

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count, reached
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if count == moment:
                reached = True
                intrude()
            count += 1
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for that when tracing begins
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return reached
