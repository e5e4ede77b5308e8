"""The ways to run ``inside`` beside the disks, behind one port. If one way fails the next one is tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

Request = dict[str, object]
Answer = dict[str, Any]


class NoAnswer(Exception):
    """The way did not start, or ended before it answered. The message is a few words for the user: no kernel stack."""


class Way(Protocol):
    """A Linux kernel with the disks of one machine."""

    name: str
    """The name for ``--reader``."""

    def lacks(self) -> str:
        """Return what is not installed here, as the end of "Install"; "" if nothing is missing."""
        ...

    def ask(self, request: Request, out: Path | None) -> Answer:
        """Carry a request out; it may be repeated. Copied files are in ``out/copy``, and the answer has the problems
        under ``complaints`` (``inside.Complaints``). Raises NoAnswer."""
        ...

    def description(self) -> str:
        """Return a text for people; after the first answer."""
        ...

    def close(self) -> None:
        """End everything that runs."""
        ...
