"""This host's boot id: it distinguishes a machine that was shut down from one that went down with the host."""

from __future__ import annotations

from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def note_boot(path: Path) -> None:
    """Record the host's boot in which a machine was started."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(_BOOT_ID.read_text())


def started_anew(path: Path) -> bool:
    """Return whether the host was rebooted since ``note_boot``."""
    try:
        return path.read_text() != _BOOT_ID.read_text()
    except FileNotFoundError:
        return False
