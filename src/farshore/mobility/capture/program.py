"""The capture program in the kernel: load, attach, its maps as Python values.

Mechanism only: capture.py decides about modes, slots and disks. Needs root. Every failure of the kernel or of libbpf is
raised as Refused or Unsupported with libbpf's output.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Optional, Sequence, Tuple, Type

import numpy as np
import numpy.typing as npt

from farshore.mobility.capture.layout import (
    CHANGED,
    CHANGED_DISK_SHIFT,
    CHANGES,
    COUNTERS,
    FLIGHT,
    MAX_CHANGED,
    MAX_FLYING,
    MAX_PLACES,
    PLACE,
    STATE_DATA,
    STATE_GENERATION_SHIFT,
    STATE_SLOT,
    Control,
    DiskEntry,
    ExclusionEntry,
)
from farshore.mobility.capture.libbpf import Library, ProgramInfo
from farshore.mobility.capture.ring import Ring
from farshore.model.errors import Unsupported

OBJECT = Path(__file__).with_name("capture.bpf.o")
BITMAP_OBJECT = Path(__file__).with_name("bitmap.bpf.o")
"""The same program without data mode, for kernels that cannot run all of it."""
COMPLETION_HOOKS = ("on_request_done", "on_bio_done")
REQUEST_HOOKS = ("on_back_merge", "on_front_merge", "on_request")
QUEUE_HOOK = "on_queue"
LEARNING_HOOK = "learn_address"


Changed = npt.NDArray[Any]
"""Elements of a map ``changed``: dtype layout.CHANGED."""


def read_changed(library: Library, descriptor: int) -> Changed:
    """Return all of a map ``changed``. Raises Refused, Unsupported."""
    keys, values = bytearray(8 * MAX_CHANGED), bytearray(CHANGES.itemsize * MAX_CHANGED)
    count, at = ctypes.c_uint32(MAX_CHANGED), ctypes.c_uint64()
    failed = library.bpf_map_lookup_batch(
        descriptor,
        None,
        ctypes.byref(at),
        ctypes.byref(ctypes.c_uint8.from_buffer(keys)),
        ctypes.byref(ctypes.c_uint8.from_buffer(values)),
        ctypes.byref(count),
        None,
    )
    if failed and ctypes.get_errno() != errno.ENOENT:  # ENOENT: end of the map
        raise library.error("Reading map changed")
    found = np.zeros(count.value, CHANGED)
    found["key"] = np.frombuffer(keys, np.uint64, count.value)
    for name in CHANGES.names or ():
        found[name] = np.frombuffer(values, CHANGES, count.value)[name]
    return found


class Program:
    """The loaded program. ``slot_words`` is the size of each of the two bitmap slots in 64-bit words.

    ``object_path`` BITMAP_OBJECT: data mode must not be set.
    """

    def __init__(self, *, ring_bytes: int, slot_words: int, object_path: Path = OBJECT) -> None:
        if not object_path.exists():
            raise Unsupported(
                f"{object_path.name} is missing.",
                remedy="Build it with `make -C bpf`, or install the mobility service again.",
            )
        self.library = Library()
        self.bitmap_only = object_path == BITMAP_OBJECT
        self._object = self.library.bpf_object__open_file(str(object_path).encode(), None)
        if not self._object:
            raise self.library.error(f"Opening {object_path.name}")
        self._links: Dict[str, Any] = {}
        try:
            self._set_size("ring", ring_bytes)
            self._set_size("bitmap", 2 * slot_words)
            if self.library.bpf_object__load(self._object) != 0:
                raise self.library.error("Loading the capture program")
            data_mode = () if self.bitmap_only else ("changed",)
            self._descriptors = {
                name: self._map_descriptor(name)
                for name in (
                    "ring",
                    "control",
                    "bitmap",
                    "disks",
                    "excluded",
                    "counters",
                    "flying",
                    "places",
                    *data_mode,
                )
            }
        except BaseException:
            self.close()
            raise
        self._control_page = mmap.mmap(self._descriptors["control"], mmap.PAGESIZE)
        self.control = Control.from_buffer(self._control_page)
        self.control.slot_words = slot_words
        self.slot_words = slot_words
        size = -(-2 * slot_words * 8 // mmap.PAGESIZE) * mmap.PAGESIZE
        self._bitmap_pages = mmap.mmap(self._descriptors["bitmap"], size)
        words: npt.NDArray[np.uint64] = np.frombuffer(self._bitmap_pages, np.uint64, 2 * slot_words)
        self.slots = (words[:slot_words], words[slot_words:])
        """The two bitmap slots; only the one that the state word does not name may be cleared."""
        self.ring = Ring(self._descriptors["ring"], ring_bytes)
        self._places_pages = mmap.mmap(self._descriptors["places"], PLACE.itemsize * MAX_PLACES, prot=mmap.PROT_READ)
        self._places: npt.NDArray[Any] = np.frombuffer(self._places_pages, PLACE)["flight"]
        # Kept, because they are megabytes; the caller of flying holds Capture's lock.
        self._flying_keys = (ctypes.c_uint64 * MAX_FLYING)()
        self._flying_values = mmap.mmap(-1, FLIGHT.itemsize * MAX_FLYING)
        self._processors = int(self.library.libbpf_num_possible_cpus())

    def attach(self) -> None:
        """Begin to see writes. Raises if the kernel lacks a hook."""
        # The completion hooks first, so that no write is seen at submission without being seen at completion.
        for name in (*COMPLETION_HOOKS, *self.taking_hooks):
            self._attach(name)
        if not self.bitmap_only:
            self._attach(LEARNING_HOOK)

    @property
    def taking_hooks(self) -> Tuple[str, ...]:
        """The hooks that record writes."""
        return (QUEUE_HOOK,) if self.bitmap_only else (*REQUEST_HOOKS, QUEUE_HOOK)

    def stop_learning(self) -> None:
        """Detach the hook that learns where pages are in memory: it is useless once that is known."""
        self._detach(LEARNING_HOOK)

    def detach(self) -> None:
        """Stop seeing writes. The maps remain."""
        for name in list(self._links):
            self._detach(name)

    def pin(self, folder: Path, maps: Sequence[str]) -> None:
        """Pin the attached hooks and these maps in a folder of bpffs, so that they outlive the process. Raises Refused,
        Unsupported."""
        for name, link in self._links.items():
            if self.library.bpf_link__pin(link, str(folder / name).encode()) != 0:
                raise self.library.error(f"Pinning {name}")
        for name in maps:
            if self.library.bpf_map__pin(self._map(name), str(folder / name).encode()) != 0:
                raise self.library.error(f"Pinning map {name}")

    def close(self) -> None:
        """Detach and unload. Harmless if done twice."""
        self.detach()
        if self._object:
            self.library.bpf_object__close(self._object)
            self._object = None

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    # ---- state word ----

    def in_data_mode(self) -> bool:
        """Return whether writes go to the ring now."""
        return bool(self.control.state & STATE_DATA)

    def slot(self) -> int:
        """Return the bitmap slot in use, 0 or 1."""
        return 1 if self.control.state & STATE_SLOT else 0

    def generation(self) -> int:
        """Return the generation, which counts entries into data mode."""
        return int(self.control.state) >> STATE_GENERATION_SHIFT

    def set_state(self, *, data: bool, slot: int, generation: int) -> None:
        """Set the state word in one store, so that a program run sees the whole change or none of it."""
        self.control.state = (
            (STATE_DATA if data else 0) | (STATE_SLOT if slot else 0) | generation << STATE_GENERATION_SHIFT
        )

    # ---- maps ----

    def put_disk(self, device: int, entry: DiskEntry) -> None:
        """Watch a disk, or replace its entry, atomically for each program run."""
        if not entry.by_request:
            self.control.queued = 1  # before there is an entry for which it matters
        self._update("disks", ctypes.c_uint64(device), entry)

    def remove_disk(self, device: int) -> None:
        """Stop watching it; unknown disks are ignored."""
        self.library.bpf_map_delete_elem(self._descriptors["disks"], ctypes.byref(ctypes.c_uint64(device)))

    def put_exclusion(self, index: int, start: int, end: int) -> None:
        """Write one element of the array that disk entries point into."""
        self._update("excluded", ctypes.c_uint32(index), ExclusionEntry(start, end))

    def counters(self, index: int) -> npt.NDArray[Any]:
        """Return one record of dtype COUNTERS: the sums over all processors, each at least as recent as the call."""
        per_processor = np.frombuffer(self._lookup("counters", index, COUNTERS.itemsize), COUNTERS)
        total = np.zeros((), COUNTERS)
        for name in COUNTERS.names or ():
            total[name] = per_processor[name].sum()
        return total

    def clear_counters(self, index: int) -> None:
        """Begin a disk's counts at zero."""
        empty = (ctypes.c_uint8 * (COUNTERS.itemsize * self._processors))()
        self._update("counters", ctypes.c_uint32(index), empty)

    def flying(self) -> npt.NDArray[Any]:
        """Return writes submitted and not yet completed (dtype FLIGHT): every one that is in flight throughout the
        call."""
        placed = self._places[self._places["left"] > 0]  # a copy
        # Requested after the places were read: a write that finds a place in use is counted before it is in the other
        # map.
        return np.concatenate((placed, self._displaced())) if self.control.displaced else placed

    def _displaced(self) -> npt.NDArray[Any]:
        count = ctypes.c_uint32(MAX_FLYING)
        position = ctypes.c_uint64()
        failed = self.library.bpf_map_lookup_batch(
            self._descriptors["flying"],
            None,
            ctypes.byref(position),
            ctypes.byref(self._flying_keys),
            ctypes.byref(ctypes.c_uint8.from_buffer(self._flying_values)),
            ctypes.byref(count),
            None,
        )
        if failed and ctypes.get_errno() != errno.ENOENT:  # ENOENT: end of the map
            raise self.library.error("Reading map flying")
        flights: npt.NDArray[Any] = np.frombuffer(self._flying_values, FLIGHT, count.value)
        return flights[flights["left"] > 0]  # a copy

    def changed(self, disk: int, chunk: int) -> int:
        """Return the 4 KiB blocks of a chunk, a bit for each, whose page changed while their newest write was in
        flight."""
        found = self._changes(ctypes.c_uint64(disk << CHANGED_DISK_SHIFT | chunk))
        return 0 if found is None else int(found["blocks"])

    def settle_changed(self, disk: int, chunks: npt.NDArray[np.int64], before: int) -> None:
        """Drop changes in these chunks from before then (CLOCK_MONOTONIC, ns)."""
        for chunk in chunks.tolist() if self.control.changed else ():
            key = ctypes.c_uint64(disk << CHANGED_DISK_SHIFT | chunk)
            found = self._changes(key)
            if found is not None and found["time"] < before:
                self.library.bpf_map_delete_elem(self._descriptors["changed"], ctypes.byref(key))

    def put_changed(self, changed: Changed) -> None:
        """Add the entries of another program."""
        for key, blocks, time in changed.tolist():
            word = ctypes.c_uint64(key)
            known = self._changes(word)
            value = np.zeros((), CHANGES)
            value["blocks"] = blocks if known is None else blocks | int(known["blocks"])
            value["time"] = time if known is None else max(time, int(known["time"]))
            self._update("changed", word, (ctypes.c_uint8 * CHANGES.itemsize).from_buffer_copy(value.tobytes()))
        if len(changed):
            self.control.changed = 1

    def _changes(self, key: ctypes.c_uint64) -> Optional[npt.NDArray[Any]]:
        value = bytearray(CHANGES.itemsize)
        into = (ctypes.c_uint8 * len(value)).from_buffer(value)
        if self.library.bpf_map_lookup_elem(self._descriptors["changed"], ctypes.byref(key), into) == 0:
            found: npt.NDArray[Any] = np.frombuffer(value, CHANGES)[0]
            return found
        if ctypes.get_errno() != errno.ENOENT:
            raise self.library.error("Reading map changed")
        return None

    def missed(self) -> int:
        """Return the number of runs of the recording hooks that the kernel skipped, because they would have interrupted
        another run."""
        return sum(int(self.info(name).recursion_misses) for name in self.taking_hooks)

    def info(self, name: str) -> ProgramInfo:
        """Return the kernel's information about a hook."""
        program = self._program(name)
        info = ProgramInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        if self.library.bpf_obj_get_info_by_fd(self.library.bpf_program__fd(program), ctypes.byref(info), size) != 0:
            raise self.library.error("Asking for the capture program's statistics")
        return info

    # ---- inside ----

    def _attach(self, name: str) -> None:
        link = self.library.bpf_program__attach(self._program(name))
        if not link:
            error = self.library.error(f"Attaching {name}")
            self.detach()
            raise error
        self._links[name] = link

    def _detach(self, name: str) -> None:
        link = self._links.pop(name, None)
        if link is not None:
            self.library.bpf_link__destroy(link)

    def _program(self, name: str) -> Any:
        return self.library.bpf_object__find_program_by_name(self._object, name.encode())

    def _map(self, name: str) -> Any:
        found = self.library.bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise Unsupported(f"The capture program has no map {name}.", remedy="Build it again with `make -C bpf`.")
        return found

    def _map_descriptor(self, name: str) -> int:
        descriptor: int = self.library.bpf_map__fd(self._map(name))
        return descriptor

    def _set_size(self, name: str, entries: int) -> None:
        if self.library.bpf_map__set_max_entries(self._map(name), entries) != 0:
            raise self.library.error(f"Setting the size of map {name}")

    def _update(self, name: str, key: Any, value: Any) -> None:
        if self.library.bpf_map_update_elem(self._descriptors[name], ctypes.byref(key), ctypes.byref(value), 0) != 0:
            raise self.library.error(f"Writing map {name}")

    def _lookup(self, name: str, index: int, size: int) -> bytearray:
        value = bytearray(size * self._processors)  # per-CPU values lie 8 bytes apart at least: our sizes are multiples
        buffer = (ctypes.c_uint8 * len(value)).from_buffer(value)
        key = ctypes.c_uint32(index)
        if self.library.bpf_map_lookup_elem(self._descriptors[name], ctypes.byref(key), buffer) != 0:
            raise self.library.error(f"Reading map {name}")
        return value
