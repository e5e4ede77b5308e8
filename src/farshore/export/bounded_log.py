"""The log of an export process: a file of limited size, because the process may run for years beside its machine."""

from __future__ import annotations

import logging.handlers
import os
from pathlib import Path

_LOG_BYTES = 4 << 20


class BoundedLog(logging.handlers.RotatingFileHandler):
    """Appends to ``path``; a full file replaces ``path``.1.

    Standard output and standard error follow, so output of the interpreter itself also goes to the newest file."""

    def __init__(self, path: Path, size: int = _LOG_BYTES) -> None:
        super().__init__(path, maxBytes=size, backupCount=1, encoding="utf-8", errors="backslashreplace")

    def doRollover(self) -> None:  # noqa: N802 - the library's name
        """Begin a new file."""
        super().doRollover()
        assert self.stream is not None, "it is opened at once, without delay"
        for number in (1, 2):
            os.dup2(self.stream.fileno(), number)
