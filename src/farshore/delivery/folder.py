"""The folder of a consignment, which is closed to other users."""

from __future__ import annotations

from pathlib import Path


def closed(folder: Path) -> None:
    """Create the folder, and close the one above it to other users.

    A recovered machine's QEMU has a descriptor of its socket's folder, so it can try to reach the folder's siblings. It
    cannot, while the folder above is closed."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.parent.chmod(0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
