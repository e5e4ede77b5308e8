"""Removes secrets from text that leaves the installation.

Three filters: known secrets of this installation, anywhere in the text; values whose name says that they are secret;
and anything that looks like a key. A long value becomes a mark, the same for the same value within one bundle, so that
equal values can still be recognised.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable

GONE = "[removed]"
_LEAST = 6
"""Shorter values are not treated as secrets: they would match everywhere."""
_SECRET_NAME = re.compile(r"(?i)passw|passphrase|secret|token|(?:api|access|account|private|signing|vault)[_-]?key")
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_NAMED = re.compile(
    r"""(?imx)
    ( [\w.-]{0,40} (?: passw(?:or)?d | passphrase | secret | token | signature | authorization | cookie | \bsas
        | (?: api | access | account | private | signing | vault ) [_-]? key ) [\w.-]{0,40}
      \\* ["']? \s* [:=] \s* )
    (?: \\+" .*? (?: \\+" | $ ) | "(?:[^"\\\n]|\\.)*" | '[^'\n]*'
      | (?: (?: bearer | basic | digest ) \s+ )? [^\s,;}\]]+ )"""
)
_USER = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/@\"']+@")
_QUERY = re.compile(r"(?P<url>\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s?\"'<>]+)\?[^\s\"'<>]+")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_=.-]{8,}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:[0-9a-f]{32,}|[0-9A-F]{32,})(?![0-9A-Za-z])")
_LONG = re.compile(r"(?<![0-9A-Za-z_+=-])(?=[\w+=-]*[0-9])(?=[\w+=-]*[a-z])(?=[\w+=-]*[A-Z])[A-Za-z0-9_+=-]{20,}")
_KINDS = re.compile(r"\b(?:whsec_[\w+/=-]+|(?:AKIA|ASIA)[0-9A-Z]{16})")


class Redaction:
    """``known``: secrets of this installation."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        words = sorted({one for one in known if len(one) >= _LEAST}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, words))) if words else None
        self._key = os.urandom(16)

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        if self._known is not None:
            text = self._known.sub(GONE, text)
        text = _PEM.sub(GONE, text)
        text = _USER.sub(rf"\g<scheme>{GONE}@", text)
        text = _QUERY.sub(rf"\g<url>?{GONE}", text)
        text = _NAMED.sub(lambda found: f'{found[1]}"{GONE}"' if found[0][-1] == '"' else f"{found[1]}{GONE}", text)
        text = _BEARER.sub(rf"\1 {GONE}", text)
        text = _KINDS.sub(GONE, text)
        text = _HEX.sub(self._mark, text)
        return _LONG.sub(self._mark, text)

    def document(self, value: object) -> object:
        """Redact JSON string by string, as quotes and line breaks are escaped in its text."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, list):
            return [self.document(one) for one in value]
        if isinstance(value, dict):
            return {
                self(name): GONE if isinstance(one, str) and one and _SECRET_NAME.search(name) else self.document(one)
                for name, one in value.items()
            }
        return value

    def _mark(self, found: re.Match[str]) -> str:
        return f"[{hmac.new(self._key, found[0].encode(), hashlib.sha256).hexdigest()[:8]}]"
