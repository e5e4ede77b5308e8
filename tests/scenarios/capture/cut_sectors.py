"""The capture program with a fault put back: its records end where memory does, and so within sectors."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.loopdisks import run

_BPF = Path(__file__).parents[3] / "bpf"
_RIGHT = "\t\tc->scattered = 1;\n\t\treturn 1;\n"
_WRONG = "\t\tn = segment.len - c->done;\n"


def program_that_cuts_sectors(folder: Path) -> Path:
    """Build it in ``folder``; where it is."""
    source = folder / "bpf"
    shutil.copytree(_BPF, source)
    text = (source / "capture.bpf.c").read_text()
    assert text.count(_RIGHT) == 1
    (source / "capture.bpf.c").write_text(text.replace(_RIGHT, _WRONG))
    run(f"make -C {source} FOLDER={folder} {folder}/capture.bpf.o")
    return folder / "capture.bpf.o"
