"""Limit the answers of a VMware server that the SDK reads. A server that is compromised or broken must not fill this
host's memory.

The SDK reads an answer to its end, however long, decompresses it without a limit, and copies a text again for each
piece that arrives. It therefore gets connections whose answers decompress themselves. They fail beyond ``MOST_BYTES``,
for a long text, and for content that no SOAP message has: a document type, or a section that is not markup.
"""

from __future__ import annotations

import http.client
import zlib
from http.cookies import CookieError, SimpleCookie
from typing import Any

MOST_BYTES = 64 << 20
"""For one decompressed answer: sixty times what discovery requests at once."""
MOST_TEXT = 1 << 20
"""For one text in it."""
_NEVER = (b"<!D", b"<![", b"\0")
"""A document type (with entities), a CDATA section, or another encoding than UTF-8: a ``<`` in them begins no tag."""
_GZIP = 16 + zlib.MAX_WBITS


class BoundedAnswer(http.client.HTTPResponse):
    """The answer that http.client reads, decompressed. Raises HTTPException beyond ``MOST_BYTES``, for content that is
    not a SOAP message, or for an encoding that was not requested."""

    def begin(self) -> None:
        """Read the head; http.client calls this."""
        super().begin()
        self._left, self._text, self._tail = MOST_BYTES, 0, b""
        encoding = super().getheader("Content-Encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            raise http.client.HTTPException(f"an answer in the encoding {encoding[:20]!r}")
        self._unpacked = zlib.decompressobj(_GZIP) if encoding == "gzip" else None
        try:  # closed here: the SDK leaves the connection open after such an error
            SimpleCookie(super().getheader("Set-Cookie", ""))
        except CookieError as error:
            raise http.client.HTTPException("an answer with an invalid cookie") from error

    def getheader(self, name: str, default: Any = None) -> Any:
        """Return a header. What ``read`` returns is already decoded, so there is no encoding."""
        return default if name.lower() == "content-encoding" else super().getheader(name, default)

    def read(self, amt: int | None = None) -> bytes:
        """Return at most ``amt`` bytes, or b"" at the end; without ``amt``, everything that is left."""
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
            raise http.client.HTTPException("an answer that is not a SOAP message")
        return data

    def _unpack(self, amt: int) -> bytes:
        assert self._unpacked is not None
        while not self._unpacked.eof:
            packed = self._unpacked.unconsumed_tail or super().read(amt)
            try:
                data = self._unpacked.decompress(packed, amt)
            except zlib.error as error:
                raise http.client.HTTPException(f"an answer that cannot be decompressed ({error})") from error
            if data or not packed:
                return data
        # The connection is reused only if the answer was read to its end.
        while self._counted(super().read(amt)):
            pass
        return b""


class BoundedConnection(http.client.HTTPSConnection):
    """An HTTPS connection with such answers."""

    response_class = BoundedAnswer
