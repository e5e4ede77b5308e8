"""Clean foreign text so that it can be stored, sent and shown."""

from __future__ import annotations

import re
from typing import Optional, Sequence

_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters can control a terminal or end a line of a file; surrogates cannot be encoded."""


def printable(text: str, limit: int = 1000) -> str:
    """Return ``text`` with each unfit character replaced by U+FFFD, cut to ``limit`` characters."""
    return _UNFIT.sub("\ufffd", text[:limit])


def enumerated(names: Sequence[str], most: int = 5) -> str:
    """Return the first ``most`` of them, and the number of others: ``a, b and 3 more``."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def bracketed(host: str) -> str:
    """Return a host as a URL has it: an IPv6 address in brackets, anything else unchanged."""
    return f"[{host}]" if ":" in host else host


def repeated(names: Sequence[str]) -> Optional[str]:
    """Return the first of them that occurs a second time."""
    return next((name for number, name in enumerate(names) if name in names[:number]), None)
