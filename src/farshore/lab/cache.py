"""Keep what is expensive to make, with one builder at a time."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator


def cache_folder() -> Path:
    """Return ``FARSHORE_CACHE``, or ``~/.cache/farshore``; create it if it is missing."""
    named = os.environ.get("FARSHORE_CACHE")
    folder = Path(named) if named else Path.home() / ".cache" / "farshore"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def only_one(lock_file: Path) -> Iterator[None]:
    """Hold ``lock_file`` exclusively; wait for another holder. The lock is released if this process dies."""
    with lock_file.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
