"""A capture that continues without its process: pinned in bpffs while one agent replaces another.

The old agent leaves bitmap mode running, so all writes meanwhile are noted. The new one attaches its own program, waits
until every run of the old program is also seen by the new one, and reads the old bitmap: together they hold every write
since the hand-over. Only the bitmap is taken over, and the old agent describes where its bits are (``Document``), so
the two may be of different releases.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from farshore.mobility.capture.bitmap import Ranges, dirty_ranges, union
from farshore.mobility.capture.kernel import grace_period
from farshore.mobility.capture.layout import BLOCK_SECTORS, CHANGED
from farshore.mobility.capture.libbpf import Library
from farshore.mobility.capture.program import Changed, read_changed
from farshore.model.errors import NotFound, Unsupported
from farshore.model.identifiers import DiskNumber, MachineId

BPFFS = Path("/sys/fs/bpf")
MAPS = ("bitmap", "control")
CHANGED_MAP = "changed"
"""The map of blocks that changed in flight; earlier releases, and a program without data mode, pin none."""
_MOUNTS = Path("/proc/self/mountinfo")
_LIBC = ctypes.CDLL(None, use_errno=True)

Document = Dict[str, Any]
"""JSON: ``folder`` (of the pins), ``slot_words``, ``whole_at`` (offset of two u64 in ``control``: by slot, a bit for
each disk all of whose blocks are dirty) and ``disks``: each ``number``, ``index`` (its bit in those), ``sectors``,
``areas`` ([first word in a slot, words, log2 of the sectors of a bit]) and ``pending`` ([first block, blocks])."""


def pin_folder_of(machine: MachineId) -> Path:
    """Return where an agent pins its capture."""
    return BPFFS / f"farshore-mobility-{machine}"


def make_pin_folder(folder: Path) -> None:
    """Create the folder anew, empty. Raises Unsupported if the kernel has no bpffs to mount."""
    if not any(line.split(" - ")[1].startswith("bpf ") for line in _mounts_at(BPFFS)):
        BPFFS.mkdir(parents=True, exist_ok=True)
        if _LIBC.mount(b"bpf", str(BPFFS).encode(), b"bpf", 0, None) != 0:
            why = os.strerror(ctypes.get_errno())
            raise Unsupported(f"{BPFFS} cannot be mounted: {why}.", remedy="Mount it: mount -t bpf bpf /sys/fs/bpf")
    unpin(folder)
    folder.mkdir(mode=0o700)


def unpin(folder: Path) -> None:
    """End what is pinned there; does nothing if nothing is."""
    with contextlib.suppress(FileNotFoundError):
        for pin in list(folder.iterdir()):
            pin.unlink()
        folder.rmdir()


def harvest(document: Document) -> Dict[DiskNumber, Ranges]:
    """Return the dirty blocks of a pinned capture; call it once your own program is attached. The pins remain.

    Raises NotFound if the pins are gone, Unsupported."""
    library = Library()
    folder = Path(document["folder"])
    words_in_slot = int(document["slot_words"])
    grace_period()
    with (
        _mapped(library, folder / "bitmap", 16 * words_in_slot) as bitmap,
        _mapped(library, folder / "control", mmap.PAGESIZE) as control,
    ):
        words = np.frombuffer(bitmap, np.uint64, 2 * words_in_slot).copy()
        whole = np.frombuffer(control, np.uint64, 2, int(document["whole_at"])).copy()
    found: Dict[DiskNumber, Ranges] = {}
    for disk in document["disks"]:
        sectors = int(disk["sectors"])
        blocks = -(-sectors // BLOCK_SECTORS)
        ranges: List[Ranges] = [np.array(disk["pending"], np.int64).reshape(-1, 2)]
        for slot in (0, 1):
            for first, count, shift in disk["areas"]:
                at = slot * words_in_slot + int(first)
                ranges.append(dirty_ranges(words[at : at + int(count)], int(shift), sectors))
            if int(whole[slot]) >> int(disk["index"]) & 1:
                ranges.append(np.array([[0, blocks]], np.int64))
        found[DiskNumber(int(disk["number"]))] = union(ranges, blocks)
    return found


def changed_before(document: Document) -> Changed:
    """Return the blocks of a pinned capture that changed in flight; nothing, if it did not note them.

    Raises Refused, Unsupported."""
    path = Path(document["folder"]) / CHANGED_MAP
    if not path.exists():
        return np.zeros(0, CHANGED)
    library = Library()
    descriptor = library.bpf_obj_get(str(path).encode())
    if descriptor < 0:
        raise library.error("Opening the pinned map changed")
    try:
        return read_changed(library, descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _mapped(library: Library, path: Path, size: int) -> Any:
    descriptor = library.bpf_obj_get(str(path).encode())
    if descriptor < 0:
        raise NotFound(
            f"The pinned capture is gone: {path} cannot be opened.", remedy="The machine resyncs automatically."
        )
    try:
        pages = mmap.mmap(descriptor, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
    yield pages  # unmapped with the last array that views it


def _mounts_at(place: Path) -> List[str]:
    lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [line for line in lines if line.split()[4] == str(place)]
