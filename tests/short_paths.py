"""A short way to a long path: sockets of recovered machines lie below a home, and the kernel bounds their paths."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path


def short_path(folder: Path) -> Path:
    """A link of a few bytes to ``folder``, which is made where it is not there; the link goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    place = tempfile.mkdtemp(prefix="f-", dir="/tmp")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    link = Path(place) / "h"
    link.symlink_to(folder)
    return link
