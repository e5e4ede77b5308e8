"""Where the lab keeps what is costly to make again, and who may make it: one builder at a time."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator


def cache_folder() -> Path:
    """``FARSHORE_CACHE``, else ``~/.cache/farshore``; made if it is not there."""
    named = os.environ.get("FARSHORE_CACHE")
    folder = Path(named) if named else Path.home() / ".cache" / "farshore"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def only_one(lock_file: Path) -> Iterator[None]:
    """Hold ``lock_file`` exclusively; waits for another holder, and is freed if this process dies."""
    with lock_file.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
