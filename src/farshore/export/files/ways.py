"""The ways to run ``inside`` beside the disks, behind one port. What a way cannot do the next one may."""

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
    """As ``--reader`` names it."""

    def lacks(self) -> str:
        """Return what is not installed here, as the end of "Install"; empty if nothing is missing."""
        ...

    def ask(self, request: Request, out: Path | None) -> Answer:
        """Carry a request out: to be repeated as often as one likes. What is copied comes to be ``out/copy``, and the
        answer has what went wrong with it under ``complaints`` (``inside.Complaints``). Raises NoAnswer."""
        ...

    def description(self) -> str:
        """Return what it is, for people; after the first answer."""
        ...

    def close(self) -> None:
        """End what runs."""
        ...
