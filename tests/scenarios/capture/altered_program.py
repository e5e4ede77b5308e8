"""The capture program with parts of its source replaced."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.loopdisks import run

_BPF = Path(__file__).parents[3] / "bpf"


def altered_program(folder: Path, replaced: Mapping[str, str]) -> Path:
    """Build it in ``folder``, with each of these passages replaced; where it is."""
    source = folder / "bpf"
    shutil.copytree(_BPF, source)
    text = (source / "capture.bpf.c").read_text()
    for right, wrong in replaced.items():
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    (source / "capture.bpf.c").write_text(text)
    run(f"make -C {source} FOLDER={folder} {folder}/capture.bpf.o")
    return folder / "capture.bpf.o"
