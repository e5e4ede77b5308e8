"""``overlay.json``: the source of an overlay, and when it was last opened. Byte layout: docs/formats/overlay.md."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from farshore.model.errors import Malformed
from farshore.model.identifiers import BLOCK

_FORMAT = "farshore-overlay"
_VERSION = 1
_NAME = "overlay.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class OverlayDescription:
    """``source`` names the state below, ``size`` is the disk's; ``complete``: nothing is read from below any longer."""

    source: str
    size: int
    boot: str
    complete: bool = False


def boot_id() -> str:
    """Return the id of the host's current boot."""
    return _BOOT_ID.read_text().strip()


def read_description(folder: Path) -> OverlayDescription | None:
    """Return the description in ``folder``, or None if there is no overlay yet. Raises Malformed."""
    path = folder / _NAME
    try:
        found = json.loads(path.read_text())
        kind = (found["format"], found["version"], found["block"])
        description = OverlayDescription(
            str(found["source"]), int(found["size"]), str(found["boot"]), bool(found["complete"])
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Malformed(f"{path} is not an overlay's description.", remedy="Fail over again.") from error
    if kind != (_FORMAT, _VERSION, BLOCK):
        raise Malformed(f"{path} is of a version that this release does not know.", remedy="Upgrade Farshore.")
    return description


def write_description(folder: Path, description: OverlayDescription) -> None:
    """Replace the description: completely or not at all, and durably."""
    fields = {"format": _FORMAT, "version": _VERSION, "block": BLOCK, "size": description.size}
    fields |= {"source": description.source, "boot": description.boot, "complete": description.complete}
    new = folder / f"{_NAME}.new"
    with new.open("w") as file:
        file.write(json.dumps(fields, indent=1))
        file.flush()
        os.fsync(file.fileno())
    new.rename(folder / _NAME)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
