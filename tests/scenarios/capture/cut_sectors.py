"""The capture program with a fault put back: its records end where memory does, and so within sectors."""

from __future__ import annotations

from pathlib import Path

from tests.scenarios.capture.altered_program import altered_program

_RIGHT = "\t\tc->scattered = 1;\n\t\treturn 1;\n"
_WRONG = "\t\tn = segment.len - c->done;\n"


def program_that_cuts_sectors(folder: Path) -> Path:
    """Build it in ``folder``; where it is."""
    return altered_program(folder, {_RIGHT: _WRONG})
