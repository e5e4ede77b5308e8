"""Guests that fit into a boot sector, served over NBD: what a recovery site's machine does is seen without a system."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import until

SIZE = 2 << 20
"""Less than a cylinder, and SeaBIOS boots nothing from it."""
# Real mode, COM1 is at 0x3f8. SeaBIOS puts the q35's power management registers at 0x600: status, enable (+2) and
# control (+4), in which 0x2000 enters the sleep type of bits 10 to 12: 0 is off, 1 suspends.
_SAY_UP = bytes.fromhex("fa 31c0 8ed8  baf803 b075ee b070ee b00aee")
"""cli; ds = 0; write "up" and a line feed to COM1."""
POLITE = _SAY_UP + bytes.fromhex(
    "ba0206 b80001 ef"  # enable the power button
    "fbf4  ba0006 ed  f6c401  74f5"  # sti; hlt (the clock ends it); until the power button's bit is set
    "baf803 b064ee b06fee b077ee b06eee b00aee"  # write "down" and a line feed to COM1
    "ba0406 b80020 ef  f4 ebfd"  # off; hlt for ever
)
"""Says "up" and waits for the power button, as a system does; then says "down" and shuts itself down."""
REBOOTING = _SAY_UP + bytes.fromhex("b0fe e664  f4 ebfd")
"""Says "up", then resets itself by the keyboard controller, again and again."""
SUSPENDING = _SAY_UP + bytes.fromhex("ba0406 b80024 ef  f4 ebfd")
"""Says "up", then suspends to memory."""


def image(path: Path, code: bytes) -> Path:
    """Write a disk that boots ``code``."""
    path.write_bytes((code.ljust(510, b"\0") + b"\x55\xaa").ljust(SIZE, b"\0"))
    return path


@contextmanager
def served(folder: Path, code: bytes) -> Iterator[Path]:
    """Yield the Unix socket at which export ``0`` is a disk that boots ``code``, for any number of machines."""
    disk = image(folder / "disk", code)
    listener = folder / "nbd.sock"
    command = ["qemu-nbd", f"--socket={listener}", "--persistent", "--shared=0", "--format=raw", "--export-name=0"]
    with subprocess.Popen([*command, str(disk)], stdin=subprocess.DEVNULL) as server:
        try:
            until(lambda: listener.exists() or server.poll() is not None, "the export")
            assert server.poll() is None, "qemu-nbd ended"
            yield listener
        finally:
            server.kill()
