"""Copy-on-write: a recovered machine's own writes, in local files over a read-only source.

The folder of an overlay holds ``data`` (sparse, as large as the disk), the two maps (``farshore.export.overlay_map``)
and ``overlay.json``, which names the source, so that an overlay is never put over another point. A failed-over machine
runs on its overlay: it outlives the export process, and flushed writes survive a power cut.

Writers of the same MiB exclude one another, so that filling a block from the source can never overwrite a neighbour's
newer write; readers take no lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from farshore.export.device import Residency
from farshore.export.overlay_description import OverlayDescription, boot_id, read_description, write_description
from farshore.export.overlay_map import DATA, SOURCE, ZERO, OverlayMap, blocks_of
from farshore.model.errors import Busy, Damaged, Refused
from farshore.model.identifiers import BLOCK
from farshore.model.ports import BlockSource, Extent
from farshore.vault.reading.holes import punch

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOCKS = 64
_LOCK_SHIFT = 20
HYDRATE_BYTES = 1 << 20
"""Range that one call of ``hydrate`` examines."""


class OverlayDevice:
    """A writable disk: ``source`` below, the files of ``folder`` above.

    ``identity`` names the source's state (machine, position, disk). Raises Refused if the folder belongs to another
    source, Busy if another process has it open, Damaged or Malformed for invalid files."""

    writable = True

    def __init__(self, source: BlockSource, folder: Path, identity: str) -> None:
        self._source = source
        self._residency = source if isinstance(source, Residency) else None
        self._size = source.size
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._flushing = threading.Lock()
        self._flush_begun = 0
        self._flush_done = 0
        self._failed: OSError | None = None
        self.asked = 0
        """Changes whenever somebody uses the disk: a guest, not hydration."""
        with ExitStack() as undo:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_file = _hold(folder / "lock")
            undo.callback(os.close, self._lock_file)
            known = read_description(folder)
            if known is not None and (known.source, known.size) != (identity, self._size):
                raise Refused(
                    f"The overlay {folder} belongs to {known.source}, not to {identity}.",
                    remedy="Use an empty folder for another point.",
                )
            self._data = os.open(folder / "data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, self._data)
            if os.fstat(self._data).st_size != self._size:
                os.ftruncate(self._data, self._size)
            same_boot = known is not None and known.boot == boot_id()
            self._map = OverlayMap(folder, blocks_of(self._size), trust_live=same_boot)
            undo.callback(self._map.close)
            # Only now may a later opening trust the live map.
            complete = known is not None and known.complete
            self._description = OverlayDescription(identity, self._size, boot_id(), complete)
            write_description(folder, self._description)
            self._folder = folder
            undo.pop_all()

    @property
    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        if not length:
            return
        self.asked += 1
        first, last = offset // BLOCK, (offset + length - 1) // BLOCK + 1
        states = self._map.states[first:last]
        state = states[0]
        if states.count(state) == last - first:
            self._read_run(state, offset, buffer)
            return
        for run in self._map.runs(first, last):
            start, stop = max(run.first * BLOCK, offset), min(run.last * BLOCK, offset + length)
            self._read_run(run.state, start, buffer[start - offset : stop - offset])

    def _read_run(self, state: int, offset: int, buffer: memoryview) -> None:
        if state == SOURCE:
            self._source.read_into(offset, buffer)
        elif state == DATA:
            self._read_data(offset, buffer)
        else:
            buffer[:] = bytes(len(buffer))

    def _read_data(self, offset: int, buffer: memoryview) -> None:
        while buffer:
            count = os.preadv(self._data, [buffer], offset)
            if count == 0:
                raise Damaged("The overlay's data file is too short.", remedy="Fail over again.")
            offset += count
            buffer = buffer[count:]

    def quick(self, offset: int, length: int) -> bool:
        first, last = offset // BLOCK, (offset + length - 1) // BLOCK + 1
        if self._map.states.find(b"\0", first, last) < 0:
            return True
        return self._residency is not None and self._residency.resident(offset, length)

    def write(self, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        if offset == end:
            return
        self.asked += 1
        self._check()
        with self._region(offset, end):
            self._fill_edges(offset, end)
            self._write_data(offset, data)
            self._map.mark(offset // BLOCK, (end - 1) // BLOCK + 1, DATA)

    def zero(self, offset: int, length: int) -> None:
        end = offset + length
        if offset == end:
            return
        self.asked += 1
        self._check()
        with self._region(offset, end):
            # Whole blocks; the disk's end counts as a block's end.
            first, last = blocks_of(offset), blocks_of(end) if end == self._size else end // BLOCK
            edges = [(offset, end)]
            if first < last:
                self._map.mark(first, last, ZERO)
                # A file system without holes is no reason to fail: the map says that the range is zero.
                punch(self._data, first * BLOCK, min(last * BLOCK, self._size) - first * BLOCK)
                edges = [(offset, first * BLOCK), (last * BLOCK, end)]
            for start, stop in edges:
                if start < stop:
                    self._fill_edges(start, stop)
                    self._write_data(start, memoryview(bytes(stop - start)))
                    self._map.mark(start // BLOCK, (stop - 1) // BLOCK + 1, DATA)

    def flush(self) -> None:
        ticket = self._flush_begun + 1
        with self._flushing:
            if self._flush_done >= ticket:
                # A flush that began after this call has done its work.
                return
            self._check()
            self._flush_begun = ticket = self._flush_begun + 1
            pages = self._map.pending()
            try:
                os.fdatasync(self._data)
            except OSError as error:
                # The kernel may have dropped what it could not write: nothing can be guaranteed any longer.
                self._failed = error
                self._map.retract(pages)
                raise
            try:
                self._map.commit(pages)
            except OSError as error:
                self._map.retract(pages)
                if error.errno not in _FULL:  # a temporary error: the pages are here, and are written again
                    self._failed = error
                raise
            self._flush_done = ticket

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        held: Extent | None = None
        for extent in self._pieces(offset, offset + length):
            if held is not None and held.zero == extent.zero:
                held = held._replace(length=held.length + extent.length)
                continue
            if held is not None:
                yield held
            held = extent
        if held is not None:
            yield held

    def _pieces(self, offset: int, end: int) -> Iterator[Extent]:
        for run in self._map.runs(offset // BLOCK, blocks_of(end)):
            start, stop = max(run.first * BLOCK, offset), min(run.last * BLOCK, end)
            if run.state == SOURCE:
                yield from self._source.extents(start, stop - start)
            else:
                yield Extent(start, stop - start, zero=run.state == ZERO)

    def hydrate(self, offset: int) -> int:
        """Copy what the MiB at ``offset`` still lacks; return how many bytes were read from the source."""
        end = min(offset + HYDRATE_BYTES, self._size)
        copied = 0
        with self._region(offset, end):
            for run in list(self._map.runs(offset // BLOCK, blocks_of(end))):
                if run.state != SOURCE:
                    continue
                start, stop = run.first * BLOCK, min(run.last * BLOCK, self._size)
                for extent in self._source.extents(start, stop - start):
                    copied += self._take_over(extent)
        if copied:
            with contextlib.suppress(OSError):  # a hint: a flush, above all the guest's, then has little left to do
                os.posix_fadvise(self._data, offset, end - offset, os.POSIX_FADV_DONTNEED)
        return copied

    def note_complete(self) -> bool:
        """Record that the source is no longer needed; return False, without a record, if it still is."""
        if self._map.states.find(bytes((SOURCE,)), 0, blocks_of(self._size)) >= 0:
            return False
        self.flush()
        if not self._description.complete:
            self._description = replace(self._description, complete=True)
            write_description(self._folder, self._description)
        return True

    def _take_over(self, extent: Extent) -> int:
        first, last = extent.offset // BLOCK, blocks_of(extent.offset + extent.length)
        if extent.zero and extent.offset % BLOCK == 0 and last * BLOCK <= extent.offset + extent.length:
            self._map.mark(first, last, ZERO)
            return 0
        # A run of zeroes that ends within a block is copied with its neighbours' bytes.
        start, stop = first * BLOCK, min(last * BLOCK, self._size)
        data = memoryview(bytearray(stop - start))
        self._source.read_into(start, data)
        self._write_data(start, data)
        self._map.mark(first, last, DATA)
        return len(data)

    def close(self) -> None:
        try:
            if self._failed is None:
                self.flush()
        finally:
            self._map.close()
            os.close(self._data)
            os.close(self._lock_file)
            self._source.close()

    def _check(self) -> None:
        if self._failed is not None:
            first = "Free space there" if self._failed.errno in _FULL else "Check the disk there"
            raise Damaged(
                f"A flush to the overlay in {self._folder} failed: {self._failed.strerror}.",
                remedy=f"{first}, then restart the machine (`farshore failover stop`, then `farshore failover "
                "start`). It starts as after a power cut, with everything that was flushed before. Fail "
                "over again only if the disk is lost.",
            )

    @contextlib.contextmanager
    def _region(self, offset: int, end: int) -> Iterator[None]:
        """Hold the locks of ``[offset, end)``."""
        first, last = offset >> _LOCK_SHIFT, (end - 1) >> _LOCK_SHIFT
        if first == last:
            with self._locks[first % _LOCKS]:
                yield
            return
        with ExitStack() as held:
            # In one order for everybody, so that two writers never wait for each other.
            for number in sorted({region % _LOCKS for region in range(first, min(last, first + _LOCKS) + 1)}):
                held.enter_context(self._locks[number])
            yield

    def _fill_edges(self, offset: int, end: int) -> None:
        """Complete the first and last block from below, if they are about to be written in part."""
        first, last = offset // BLOCK, (end - 1) // BLOCK
        if offset % BLOCK:
            self._fill(first)
        if end % BLOCK and end != self._size and (last != first or not offset % BLOCK):
            self._fill(last)

    def _fill(self, block: int) -> None:
        state = self._map.states[block]
        if state == DATA:
            return
        start = block * BLOCK
        whole = memoryview(bytearray(min(BLOCK, self._size - start)))
        if state == SOURCE:
            self._source.read_into(start, whole)
        self._write_data(start, whole)
        self._map.mark(block, block + 1, DATA)

    def _write_data(self, offset: int, data: memoryview) -> None:
        while data:
            count = os.pwrite(self._data, data, offset)
            offset += count
            data = data[count:]


def _hold(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise Busy(f"The overlay {path.parent} is in use.", remedy="Wait until its export has stopped.") from error
    return file
