"""The folder of a consignment, which nobody else gets into."""

from __future__ import annotations

from pathlib import Path


def closed(folder: Path) -> None:
    """Make the folder, and let nobody into the one above it.

    A recovered machine's QEMU has a descriptor of its socket's folder, and so reaches what is beside that: nothing, as
    long as the folder of all lets nobody in.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.parent.chmod(0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
