"""The messages between a master target and its process for an errand.

The task is one JSON document on a line of standard input, so keys appear in no argument, environment or file. The
process writes a JSON object on each line: its progress, and at the end its result. It ends when its standard input
does.
"""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Tuple


class Errand(enum.Enum):
    """How far the disks must be brought."""

    LOOK = "look"
    """Check and claim them; nothing is written."""
    FOLLOW = "follow"
    """Almost to the newest position, while the machine runs elsewhere."""
    FINISH = "finish"
    """To a position, completely."""


@dataclass(frozen=True)
class DiskPlace:
    """Where one disk is; ``image``: the image format, if it is not raw."""

    disk: int
    path: str
    image: str = ""


@dataclass(frozen=True)
class DomainKeys:
    """The keys for the chunks of one deduplication domain, in hex."""

    domain: int
    seal: str = field(repr=False)
    hash: str = field(repr=False)


@dataclass(frozen=True)
class HeldKeys:
    """The keys for one machine in the vault, in hex: the upkeep key, the machine's own and those of its chunks."""

    upkeep: str = field(repr=False)
    machine: str = field(repr=False)
    chunks: Tuple[DomainKeys, ...] = ()


@dataclass(frozen=True)
class HomeTask:
    """One errand for the disks of one machine. ``state``: the folder of its record; ``position`` is EPOCH:SEQUENCE, of
    FINISH alone."""

    errand: Errand
    vault: str
    machine: str
    state: str
    places: Tuple[DiskPlace, ...]
    keys: HeldKeys
    position: str = ""

    def encode(self) -> bytes:
        """Return one line."""
        return json.dumps({**asdict(self), "errand": self.errand.value}).encode() + b"\n"


def decode_task(line: bytes) -> HomeTask:
    """Read a task. Raises ValueError, KeyError, TypeError for invalid input."""
    fields = json.loads(line)
    places = tuple(DiskPlace(int(one["disk"]), str(one["path"]), str(one["image"])) for one in fields["places"])
    held = fields["keys"]
    chunks = tuple(DomainKeys(int(one["domain"]), str(one["seal"]), str(one["hash"])) for one in held["chunks"])
    keys = HeldKeys(str(held["upkeep"]), str(held["machine"]), chunks)
    return HomeTask(**{**fields, "errand": Errand(fields["errand"]), "places": places, "keys": keys})


def progress_line(done: float, detail: str) -> str:
    """Format the line that reports progress: a fraction from 0 to 1, and words."""
    return _line({"done": done, "detail": detail})


def failure_line(code: str, message: str, remedy: str) -> str:
    """Format the line that reports a failure; ``code`` as in farshore.model.errors."""
    return _line({"error": {"code": code, "message": message, "remedy": remedy}})


def outcome_line(compared: int, written: int) -> str:
    """Format the line that reports success: bytes read and hashed, and bytes written to the disks."""
    return _line({"outcome": {"compared": compared, "written": written}})


def _line(fields: Any) -> str:
    return f"{json.dumps(fields)}\n"
