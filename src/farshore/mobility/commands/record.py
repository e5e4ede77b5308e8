"""Remember which commands were begun, and their results, until the server has them: a file that outlives the agent.

A command is recorded before it is begun. So a restarted agent knows of each offered command whether it was answered
(the answer is sent again), or was begun and interrupted. Kinds that may be repeated are then carried out again. For the
others it is unknown what the previous process had done, and that is the answer.

Layout (JSON): ``{"format": 1, "commands": {id: {"kind": text, "result": object or null}}}``.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Dict, Optional, Tuple

from farshore.api_types.commands import CommandFailure, CommandResult
from farshore.client.credentials import read_private, write_private
from farshore.model.commands import REPEATABLE, CommandKind
from farshore.model.errors import NotFound, Refused

log = logging.getLogger(__name__)

_FORMAT = 1
_WRITE_SECONDS = 3.0
"""Maximum time that a command waits for its record: the agent's own file system may be frozen, for this very point."""
_CUT_OFF = CommandResult(
    failure=CommandFailure(
        code="try-later",
        message="The agent ended while it carried out the command; it is unknown whether it was done.",
        remedy="Check whether the point exists (farshore point list); if not, request it again.",
    )
)


class Record:
    """Used by a thread that holds the lock of Handling.

    What cannot be written is kept in memory and logged once: neither a full disk nor a frozen file system may prevent a
    machine's commands."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unwritten = False
        self._changed = threading.Condition()
        self._wanted = b""
        self._version = self._written = 0
        self._writing = False
        self._known: Dict[str, Tuple[str, Optional[CommandResult]]] = {}
        for command, (kind, result) in _load(path).items():
            if result is not None:
                self._known[command] = (kind, result)
            elif kind not in {each.value for each in REPEATABLE}:
                log.warning("Command %s was interrupted by the end of the agent.", command)
                self._known[command] = (kind, _CUT_OFF)

    def results(self) -> Dict[str, CommandResult]:
        """Return results that the server may not have."""
        return {command: result for command, (_, result) in self._known.items() if result is not None}

    def begin(self, command: str, kind: CommandKind) -> None:
        """Record that a command is about to be carried out."""
        self._known[command] = (kind.value, None)
        self._write()

    def end(self, command: str, kind: str, result: CommandResult) -> None:
        """Note the result of a command."""
        self._known[command] = (kind, result)
        self._write()

    def forget(self, command: str) -> None:
        """Forget a command whose result the server has."""
        if self._known.pop(command, None) is not None:
            self._write()

    def _write(self) -> None:
        fields = {
            command: {"kind": kind, "result": None if result is None else result.model_dump(mode="json")}
            for command, (kind, result) in self._known.items()
        }
        with self._changed:
            self._wanted = json.dumps({"format": _FORMAT, "commands": fields}).encode()
            self._version += 1
            version = self._version
            if not self._writing:
                self._writing = True
                # A daemon: a write to a frozen file system must not prevent the agent from ending.
                threading.Thread(target=self._write_out, name="commands-record", daemon=True).start()
            if not self._changed.wait_for(lambda: self._written >= version, _WRITE_SECONDS):
                self._tell("its file system does not answer, or is frozen")

    def _write_out(self) -> None:
        """Write the present content until there is nothing newer."""
        while True:
            with self._changed:
                if self._written == self._version:
                    self._writing = False
                    return
                data, version = self._wanted, self._version
            why = ""
            try:
                write_private(self._path, data)
            except OSError as error:
                why = error.strerror or str(error)
            with self._changed:
                if why:
                    self._tell(why)
                else:
                    self._unwritten = False
                self._written = version
                self._changed.notify_all()

    def _tell(self, why: str) -> None:
        if not self._unwritten:
            log.warning(
                "%s cannot be written (%s): after a restart the agent does not know what was begun.", self._path, why
            )
        self._unwritten = True


def _load(path: Path) -> Dict[str, Tuple[str, Optional[CommandResult]]]:
    try:
        fields = json.loads(read_private(path))
        if fields["format"] != _FORMAT:
            return {}
        return {
            str(command): (
                str(each["kind"]),
                None if each["result"] is None else CommandResult.model_validate(each["result"]),
            )
            for command, each in fields["commands"].items()
        }
    except NotFound:
        return {}
    except (Refused, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is not understood and ignored: %s", path, error)
        return {}
