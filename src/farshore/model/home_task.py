"""What a master target is told that works for a configuration server of its host, and what it says of it.

One JSON document on a line of its standard input, so that the vault's key appears in no argument, environment or file.
It says a JSON object a line: how far it is, and at the end its outcome. It ends when its standard input does.
"""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Tuple

MODULE = "farshore.master_target.on_behalf"
"""The program, for whoever starts it."""


class Errand(enum.Enum):
    """How far the disks are to be brought."""

    LOOK = "look"
    """Look at them and claim them; nothing is written."""
    FOLLOW = "follow"
    """Nearly to the newest position, while the machine runs elsewhere."""
    FINISH = "finish"
    """To a position, whole."""


@dataclass(frozen=True)
class DiskPlace:
    """Where one disk is; ``image``: it is not raw but of this format."""

    disk: int
    path: str
    image: str = ""


@dataclass(frozen=True)
class HomeTask:
    """One errand for the disks of one machine. ``state``: the folder of its record; ``position`` is EPOCH:SEQUENCE, of
    FINISH alone; ``key`` is the vault key in hex."""

    errand: Errand
    vault: str
    machine: str
    state: str
    places: Tuple[DiskPlace, ...]
    position: str = ""
    key: str = field(default="", repr=False)

    def encode(self) -> bytes:
        """Return one line."""
        return json.dumps({**asdict(self), "errand": self.errand.value}).encode() + b"\n"


def decode_task(line: bytes) -> HomeTask:
    """Read a task. Raises ValueError, KeyError, TypeError for what is none."""
    fields = json.loads(line)
    places = tuple(DiskPlace(int(one["disk"]), str(one["path"]), str(one["image"])) for one in fields["places"])
    return HomeTask(**{**fields, "errand": Errand(fields["errand"]), "places": places})


def progress_line(done: float, detail: str) -> str:
    """How far it is, 0 to 1, and in words."""
    return _line({"done": done, "detail": detail})


def failure_line(code: str, message: str, remedy: str) -> str:
    """It could not; ``code`` as in farshore.model.errors."""
    return _line({"error": {"code": code, "message": message, "remedy": remedy}})


def outcome_line(compared: int, written: int) -> str:
    """It is done: bytes that were read and hashed, and bytes that were written to the disks."""
    return _line({"outcome": {"compared": compared, "written": written}})


def _line(fields: Any) -> str:
    return f"{json.dumps(fields)}\n"
