"""What boot diagnostics have of a machine: its serial console as text, its screen as a bitmap."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from azure.core.exceptions import AzureError
from azure.storage.blob import BlobClient

from farshore.model.errors import Unreachable
from farshore.sites.folder import replace
from farshore.sites.picture import MOST_BYTES, png_of

CONSOLE_BYTES = 16 << 20
_HEAD = struct.Struct("<2sIHHIIiiHHI")


class Diagnostics:
    """Of the machines of one resource group."""

    def __init__(self, machines: Any, group: str) -> None:
        self._machines, self._group = machines, group

    def fetch_console(self, name: str, path: Path) -> None:
        """Write to ``path`` what the machine said, its newest part. Raises AzureError, OSError."""
        data = _fetch(self._addresses(name).serial_console_log_blob_uri, CONSOLE_BYTES)
        if data is not None and (not path.exists() or path.read_bytes() != data):
            replace({path: data}, remove=path.with_name("left-over"))

    def screen(self, name: str) -> bytes:
        """The screen as PNG. Raises Unreachable, AzureError."""
        data = _fetch(self._addresses(name).console_screenshot_blob_uri, MOST_BYTES)
        try:
            if data is None:
                raise ValueError("there is none yet")
            return png_of(ppm_of(data))
        except (ValueError, struct.error) as error:
            raise Unreachable(
                f"Azure gives no picture of the screen: {error}.", remedy="Look at the machine's console instead."
            ) from error

    def _addresses(self, name: str) -> Any:
        return self._machines.retrieve_boot_diagnostics_data(self._group, name)


def _fetch(address: str | None, most: int) -> bytes | None:
    """The last ``most`` bytes at an address, which is a secret; None if nothing is there yet."""
    if not address:
        return None
    with BlobClient.from_blob_url(address, retry_total=2) as blob:
        try:
            size = int(blob.get_blob_properties().size or 0)
            start = max(0, size - most)
            return bytes(blob.download_blob(start, size - start).readall()) if size else b""
        except AzureError:
            return None


def ppm_of(bitmap: bytes) -> bytes:
    """A Windows bitmap of 24 or 32 bits, uncompressed, as PPM. Raises ValueError, struct.error."""
    sign, _, _, _, begin, _, width, height, _, bits, packed = _HEAD.unpack_from(bitmap)
    if sign != b"BM" or bits not in (24, 32) or packed not in (0, 3) or width <= 0 or height == 0:
        raise ValueError("not a bitmap of 24 or 32 bits")
    row, step = -(-width * bits // 32) * 4, bits // 8
    if width * abs(height) * 3 > MOST_BYTES or len(bitmap) < begin + row * abs(height):
        raise ValueError("the image is cut off, or too large")
    lines = []
    for number in range(abs(height)):
        line = bitmap[begin + number * row : begin + number * row + width * step]
        pixels = bytearray(3 * width)
        pixels[0::3], pixels[1::3], pixels[2::3] = line[2::step], line[1::step], line[0::step]
        lines.append(bytes(pixels))
    if height > 0:  # from the bottom up
        lines.reverse()
    return b"P6 %d %d 255\n" % (width, abs(height)) + b"".join(lines)
