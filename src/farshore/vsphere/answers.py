"""Answers of a VMware server as the SDK reads them, with an end: a server that was taken over, or that something went
wrong with, must not fill this host's memory.

The SDK reads an answer to its end, whatever that is, unpacks it without a limit, and copies a text again with each
piece of it that comes. So it is given connections whose answers unpack themselves, and fail beyond ``MOST_BYTES``, for
a long text, and for what no SOAP message has: a document type, a section that is not markup.
"""

from __future__ import annotations

import http.client
import zlib
from http.cookies import CookieError, SimpleCookie
from typing import Any

MOST_BYTES = 64 << 20
"""Of one unpacked answer: sixty times what discovery asks for at once."""
MOST_TEXT = 1 << 20
"""Of one text in it."""
_NEVER = (b"<!D", b"<![", b"\0")
"""A document type (with entities), a CDATA section, another encoding than UTF-8: a ``<`` in them begins no tag."""
_GZIP = 16 + zlib.MAX_WBITS


class BoundedAnswer(http.client.HTTPResponse):
    """What http.client reads, unpacked. Raises HTTPException beyond ``MOST_BYTES``, for what is no SOAP message, or
    for an encoding that was not asked for."""

    def begin(self) -> None:
        """Read the head, as http.client calls it."""
        super().begin()
        self._left, self._text, self._tail = MOST_BYTES, 0, b""
        encoding = super().getheader("Content-Encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            raise http.client.HTTPException(f"an answer in the encoding {encoding[:20]!r}")
        self._unpacked = zlib.decompressobj(_GZIP) if encoding == "gzip" else None
        try:  # here: the SDK leaves the connection open when it stumbles over it
            SimpleCookie(super().getheader("Set-Cookie", ""))
        except CookieError as error:
            raise http.client.HTTPException("an answer with a cookie that is none") from error

    def getheader(self, name: str, default: Any = None) -> Any:
        """A header; what ``read`` returns has no encoding."""
        return default if name.lower() == "content-encoding" else super().getheader(name, default)

    def read(self, amt: int | None = None) -> bytes:
        """So many bytes at most, none at the end; the rest without a number."""
        if amt is None:
            parts = []
            while part := self.read(1 << 16):
                parts.append(part)
            return b"".join(parts)
        return self._counted(self._unpack(amt) if self._unpacked is not None else super().read(amt))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            self.close()
            raise http.client.HTTPException(f"an answer of more than {MOST_BYTES >> 20} MiB")
        window, tag = self._tail + data, data.rfind(b"<")
        self._tail = window[-2:]
        self._text = len(data) - tag if tag >= 0 else self._text + len(data)
        if self._text > MOST_TEXT or any(one in window for one in _NEVER):
            self.close()
            raise http.client.HTTPException("an answer that is no SOAP message")
        return data

    def _unpack(self, amt: int) -> bytes:
        assert self._unpacked is not None
        while not self._unpacked.eof:
            packed = self._unpacked.unconsumed_tail or super().read(amt)
            try:
                data = self._unpacked.decompress(packed, amt)
            except zlib.error as error:
                raise http.client.HTTPException(f"an answer that does not unpack ({error})") from error
            if data or not packed:
                return data
        # The connection is used again once the answer was read to its end.
        while self._counted(super().read(amt)):
            pass
        return b""


class BoundedConnection(http.client.HTTPSConnection):
    """An HTTPS connection with such answers."""

    response_class = BoundedAnswer
