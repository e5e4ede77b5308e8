"""Reads a secret from a file or standard input; a secret is never an argument."""

from __future__ import annotations

import sys
from pathlib import Path

from farshore.model.errors import NotFound


def read_secret(path: Path, what: str = "secret") -> str:
    """Return the text of a file, of standard input for ``-``. Raises NotFound."""
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"{path} cannot be read ({error}).", remedy=f"Give the file with the {what}.") from error
