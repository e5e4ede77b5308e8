"""An export's log: its size has a bound, and what standard error gets lands in the newest file."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from farshore.export.bounded_log import BoundedLog

_PROGRAM = """
import logging, os, sys
from pathlib import Path
from farshore.export.bounded_log import BoundedLog
handler = BoundedLog(Path(sys.argv[1]), 1000)
for number in range(100):
    handler.emit(logging.makeLogRecord({"msg": f"line {number} " + "x" * 80}))
os.write(2, b"the interpreter's own")
"""


def test_it_keeps_the_newest_lines_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "export.log"
    path.write_text("old " * 1000)  # from a release without a bound
    handler = BoundedLog(path, 1000)
    for number in range(200):
        handler.emit(logging.makeLogRecord({"msg": f"line {number}"}))
    handler.close()
    kept = sorted(one.name for one in tmp_path.iterdir())
    assert kept == ["export.log", "export.log.1"]
    assert all((tmp_path / name).stat().st_size <= 1000 for name in kept)
    assert path.read_text().endswith("line 199\n")


def test_standard_error_follows(tmp_path: Path) -> None:
    path = tmp_path / "export.log"
    with path.open("ab") as log:
        subprocess.run([sys.executable, "-c", _PROGRAM, path], stdout=log, stderr=log, check=True)
    assert path.read_text().endswith("the interpreter's own")
