"""Text that came from elsewhere, made fit to be stored, sent and shown."""

from __future__ import annotations

import re

_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters can drive a terminal or end a line of a file; surrogates cannot be encoded."""


def printable(text: str, limit: int = 1000) -> str:
    """``text`` with each unfit character replaced by U+FFFD, cut to ``limit`` characters."""
    return _UNFIT.sub("\ufffd", text[:limit])
