"""Logging, configured once by each program's main.

One line per event on standard error, where systemd's journal collects it: as text with a syslog priority under systemd,
or as JSON for collectors. Fields given as ``extra={"fields": {...}}`` follow the message. Anything that looks like a
PEM key is removed from every line, as a last line of defence: no caller may log secrets in the first place.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from typing import Any, Dict, Mapping, Optional, TextIO

from farshore.model.errors import FarshoreError
from farshore.telemetry.flood import Sparing

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_SECRET = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL)

_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")


def configure(
    program: str,
    *,
    level: str = "INFO",
    as_json: bool = False,
    stream: TextIO = sys.stderr,
    handler: Optional[logging.Handler] = None,
) -> None:
    """Send all records at ``level`` and above to ``handler``, or to ``stream``; replaces the earlier configuration."""
    handler = logging.StreamHandler(stream) if handler is None else handler
    handler.setFormatter(JsonLines(program) if as_json else TextLines(program, journal="JOURNAL_STREAM" in os.environ))
    handler.addFilter(Sparing())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    threading.excepthook = _thread_failed
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # we report its retries ourselves
    logging.getLogger("asyncssh").setLevel(logging.WARNING)  # it logs every channel


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Log a thread that ended with an error and that nobody watches."""
    if failure.exc_value is None or issubclass(failure.exc_type, SystemExit):
        return
    name = failure.thread.name if failure.thread is not None else "?"
    what = (failure.exc_type, failure.exc_value, failure.exc_traceback)
    logging.getLogger(__name__).critical("The thread %s has ended by an error.", name, exc_info=what)


class TextLines(logging.Formatter):
    """``time LEVEL program logger: message key=value …``; under the journal, which has the time and the program, the
    priority instead of the first three."""

    def __init__(self, program: str, *, journal: bool) -> None:
        super().__init__()
        self._program, self._journal = program, journal

    def format(self, record: logging.LogRecord) -> str:
        """Return one record as one line (and its traceback, where there is one)."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        # A message may quote foreign text: it remains one line, and cannot control a terminal.
        said = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", f"{record.getMessage()}{fields}".replace("\n", " | "))
        text = _SECRET.sub("[key removed]", f"{record.name}: {said}{_traceback(self, record)}")
        if self._journal:
            return f"<{_PRIORITY.get(record.levelno, 6)}>{text}"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{stamp}.{int(record.msecs):03d}Z {record.levelname} {self._program} {text}"


class JsonLines(logging.Formatter):
    """One JSON object per line."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        """Return one record as one line."""
        entry: Dict[str, Any] = {
            "time": record.created,
            "level": record.levelname,
            "program": self._program,
            "logger": record.name,
            "message": _SECRET.sub("[key removed]", record.getMessage() + _traceback(self, record)),
        }
        entry.update(_fields(record))
        return json.dumps(entry, default=str)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    if isinstance(record.exc_info[1], FarshoreError):  # expected: the sentence is enough
        return f" {record.exc_info[1]}"
    return "\n" + formatter.formatException(record.exc_info)
