"""Convert a hypervisor's picture of a screen (a PPM image, P6, or PNG) to a PNG image. Pure.

The data comes from a guest's QEMU, which is not trusted. It is parsed within limits and encoded anew, never passed on.
"""

from __future__ import annotations

import re
import struct
import zlib

_HEADER = re.compile(rb"P6\s+(\d{1,5})\s+(\d{1,5})\s+255\s")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NEEDED = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_MOST_PIXELS = 4096 * 2160
MOST_BYTES = 3 * _MOST_PIXELS + 64
"""Limit for a PPM image."""


def png_of(ppm: bytes) -> bytes:
    """Return the image as PNG: no filter, eight bits a colour. Raises ValueError for anything else than such an image,
    or one that is too large."""
    header = _HEADER.match(ppm)
    if header is None:
        raise ValueError("not a PPM image of 8 bits")
    width, height = int(header[1]), int(header[2])
    if not 0 < width * height <= _MOST_PIXELS:
        raise ValueError(f"an image of {width} times {height}")
    row, begin = 3 * width, header.end()
    if len(ppm) < begin + row * height:
        raise ValueError("the image is cut off")
    lines = b"".join(b"\0" + ppm[begin + number * row : begin + (number + 1) * row] for number in range(height))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    return _SIGNATURE + b"".join(_chunk(kind, content) for kind, content in parts)


def picture_of(image: bytes) -> bytes:
    """Return a PPM or PNG image as PNG; of a PNG image, only the chunks that are needed to show it. Raises
    ValueError."""
    if not image.startswith(_SIGNATURE):
        return png_of(image)
    kept, at, kind = [_SIGNATURE], len(_SIGNATURE), b""
    while kind != b"IEND":
        if len(image) < at + 12:
            raise ValueError("the image is cut off")
        (length,) = struct.unpack(">I", image[at : at + 4])
        kind, content = image[at + 4 : at + 8], image[at + 8 : at + 8 + length]
        if _chunk(kind, content) != image[at : at + 12 + length]:
            raise ValueError("the image is cut off or altered")
        if kind in _NEEDED:
            kept.append(_chunk(kind, content))
        at += 12 + length
    return b"".join(kept)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
