"""The spool log: one ordered file sequence for all machines, appended by one thread, many requests to each fsync.

In the flow: a request thread appends a sealed batch and waits on the ticket; the writer thread writes whatever has
queued up meanwhile, syncs once, notifies each frame's owner (in order), and resolves the tickets; the uploader
releases a frame once the vault has it; a file without frames is reused.

Promises:
- A ticket resolves only after the frame is on stable storage.
- The frames of one lane (machine, epoch, role) are dense: a frame that does not follow the last one is refused,
  also after a failed write, which drops all frames queued after it.
- After a crash ``recover`` finds every frame whose ticket resolved, in order. It may also find one whose ticket
  had not resolved, and some that had been released (the caller drops those that the vault has).

A failed sync condemns its file: Linux may report it once and drop the pages, so the log continues in a new file.
Frames that were only in memory after such a failure, or a kill before the sync, are read by ``recover``, which writes
them again and syncs, because its callers treat every frame as durable.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Callable, NamedTuple, Sequence

from farshore.formats import spool as layout
from farshore.formats.batch import Role
from farshore.formats.spool import Buffer, FrameHeader, FrameKind
from farshore.model.errors import Damaged, FarshoreError, Gap, Malformed, NoSpace, TryLater
from farshore.model.identifiers import Epoch, MachineId
from farshore.process_server.spool.allowance import Allowance
from farshore.process_server.spool.disk import SpoolDisk
from farshore.process_server.spool.file import PREFIX, SPARE, FrameReference, SpoolFile, file_name

_log = logging.getLogger(__name__)

FILE_BYTES = 64 << 20
GROUP_BYTES = 16 << 20
"""Maximum bytes of one group commit: limits how long the first frame waits for the last."""
SPARE_FILES = 2


class LaneKey(NamedTuple):
    """Has its own dense sequence."""

    machine: MachineId
    epoch: Epoch
    role: Role


Placed = Callable[[FrameReference], None]
"""Called by the writer thread for each durable frame, in order, before its ticket resolves. It must not block."""


@dataclass
class _Queued:
    header: FrameHeader
    body: Sequence[Buffer]
    length: int
    placed: Placed
    ticket: Future[FrameReference]


class SpoolLog:
    """``limit`` is the maximum of bytes of waiting frames; the files may take up to four more of ``file_bytes``
    each."""

    def __init__(self, disk: SpoolDisk, limit: int, file_bytes: int = FILE_BYTES) -> None:
        self._disk = disk
        self._file_bytes = file_bytes
        self._changed = threading.Condition()
        self._allowance = Allowance(limit)
        self._queue: deque[_Queued] = deque()
        self._tails: dict[LaneKey, int] = {}
        self._files: dict[int, SpoolFile] = {}
        self._spares: list[SpoolFile] = []
        self._current: SpoolFile | None = None
        self._next_number = 1
        self._stopping = False
        self.trouble = ""
        """Reason for the last failed append, and what to do; "" if appends succeed."""
        self._writer = threading.Thread(target=self._run, name="spool-writer", daemon=True)

    @property
    def limit(self) -> int:
        """Maximum bytes of waiting frames."""
        return self._allowance.limit

    @limit.setter
    def limit(self, limit: int) -> None:
        with self._changed:
            self._allowance.limit = limit

    @property
    def waiting_bytes(self) -> int:
        """Bytes of frames that are queued, or durable and not released."""
        with self._changed:
            return self._allowance.total

    def held_by(self, machine: MachineId) -> int:
        """Return the number of bytes of one machine's waiting frames."""
        with self._changed:
            return self._allowance.held_by(machine)

    def recover(self) -> list[FrameReference]:
        """Return every frame that the directory holds, in the order they were appended. Call once, before ``start``."""
        found: list[FrameReference] = []
        names = self._disk.names()
        for name in names:
            if name.startswith(SPARE):
                self._disk.remove(name)
        for name in (name for name in names if name.startswith(PREFIX)):
            found += self._recover_file(name, last=name == names[-1])
        return found

    def start(self) -> None:
        """Begin to write."""
        self._writer.start()

    def append(self, header: FrameHeader, body: Sequence[Buffer], placed: Placed) -> Future[FrameReference]:
        """Queue one frame. Raises Busy at the limit, Gap if it does not follow its lane's last frame.

        The ticket resolves to the durable frame, or to TryLater or NoSpace; then nothing of it is in the log."""
        lane = LaneKey(header.machine, header.epoch, header.role)
        length = layout.frame_bytes(sum(len(part) for part in body))
        ticket: Future[FrameReference] = Future()
        with self._changed:
            if self._stopping:
                raise TryLater(
                    "The process server is stopping.", remedy="Repeat the batch when it runs again.", after=1
                )
            expected = self._tails.get(lane, header.first_sequence)
            if header.first_sequence != expected:
                raise Gap(
                    f"The spool expects sequence {expected} of this stream, not {header.first_sequence}.",
                    remedy="Continue from the expected sequence.",
                    expected=expected,
                )
            self._allowance.take(header.machine, length)
            self._tails[lane] = header.end_sequence
            self._queue.append(_Queued(header, body, length, placed, ticket))
            self._changed.notify_all()
        return ticket

    def tail(self, lane: LaneKey) -> int | None:
        """Return the sequence that the next frame of ``lane`` must begin with; None: any."""
        with self._changed:
            return self._tails.get(lane)

    def expect(self, lane: LaneKey, sequence: int) -> None:
        """Require that the next frame of ``lane`` begins with ``sequence``."""
        with self._changed:
            self._tails[lane] = sequence

    def forget_lane(self, lane: LaneKey) -> None:
        """Forget a lane whose owner has closed. Its next frame may begin anywhere."""
        with self._changed:
            self._tails.pop(lane, None)

    def release(self, frames: Sequence[FrameReference]) -> None:
        """Release frames that are no longer needed. Raises OSError if an emptied file cannot be deleted."""
        emptied: list[SpoolFile] = []
        with self._changed:
            for frame in frames:
                self._allowance.give_back(frame.header.machine, frame.length)
                frame.file.waiting -= 1
                if not frame.file.waiting and frame.file is not self._current:
                    emptied.append(frame.file)
            self._changed.notify_all()
        for file in emptied:
            self._retire(file)

    def stop(self) -> None:
        """Write what is queued, then end the writer. Frames remain for the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._writer.is_alive():
            self._writer.join()
        with self._changed:
            files = [*self._files.values(), *self._spares]
            self._files, self._spares = {}, []
        for file in files:
            file.close()

    def _recover_file(self, name: str, *, last: bool) -> list[FrameReference]:
        descriptor = self._disk.open(name)
        try:
            view = memoryview(self._disk.map(descriptor))
            number = layout.decode_file_header(view)
        except (ValueError, Malformed, Damaged):  # ValueError: an empty file cannot be mapped
            # A crash before the header was synced: no frame of this file was ever acknowledged.
            _log.warning("The spool file %s has no valid header and is removed; it held no acknowledged frame.", name)
            self._disk.remove(name)
            return []
        file = SpoolFile(self._disk, number, descriptor, len(view))
        file.name = name
        self._next_number = max(self._next_number, number + 1)
        found: list[FrameReference] = []
        ended = False
        for frame in layout.read_frames(view, number):
            if frame.header.kind is FrameKind.END:
                ended = True
                break
            header = frame.header
            found.append(FrameReference(header, file, frame.offset, frame.length, len(frame.body)))
            self._allowance.count(header.machine, frame.length)
            self._tails[LaneKey(header.machine, header.epoch, header.role)] = header.end_sequence
        if not ended and not last:
            _log.warning("Spool file %s ends early, after %d frames; its streams will show the gap.", name, len(found))
        if found and not ended:
            self._make_durable(file, view, found)
        file.waiting = len(found)
        if found:
            self._files[number] = file
        else:
            file.close()
            self._disk.remove(name)
        return found

    def _make_durable(self, file: SpoolFile, view: memoryview, found: Sequence[FrameReference]) -> None:
        """Write the last group of a file again, and sync. If an earlier sync failed, another sync is not enough,
        because the pages count as clean."""
        end = found[-1].offset + found[-1].length
        begin = next(frame.offset for frame in found if frame is found[-1] or frame.offset >= end - GROUP_BYTES)
        try:
            self._disk.write(file.descriptor, begin, [bytes(view[begin:end])])
            self._disk.sync(file.descriptor)
        except OSError as error:  # the present frames can be stored in the vault all the same, so the server starts
            self.trouble = str(_translated(error))
            _log.error("The spool cannot be written (%s): its newest frames may not survive a power cut.", error)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._stopping:
                    self._changed.wait()
                if not self._queue:
                    return
                group = self._take_group()
            try:
                references = self._write(group)
            except OSError as error:
                self.trouble = str(_translated(error))
                self._fail(group, error)
                continue
            self.trouble = ""
            for item, reference in zip(group, references, strict=True):
                item.placed(reference)
                item.ticket.set_result(reference)

    def _take_group(self) -> list[_Queued]:
        room = GROUP_BYTES
        if self._current is not None:
            left = self._current.size - self._current.end - layout.frame_bytes(0)  # space for the END frame
            if left >= self._queue[0].length:
                room = min(room, left)
        group = [self._queue.popleft()]
        room -= group[0].length
        while self._queue and self._queue[0].length <= room:
            room -= self._queue[0].length
            group.append(self._queue.popleft())
        return group

    def _write(self, group: Sequence[_Queued]) -> list[FrameReference]:
        need = sum(item.length for item in group)
        file = self._current
        if file is None or file.end + need + layout.frame_bytes(0) > file.size:
            file = self._next_file(need)
        buffers: list[Buffer] = []
        references: list[FrameReference] = []
        end, ordinal = file.end, file.ordinal
        for item in group:
            buffers += layout.encode_frame(item.header, item.body, file.number, ordinal)
            body_length = sum(len(part) for part in item.body)
            references.append(FrameReference(item.header, file, end, item.length, body_length))
            end, ordinal = end + item.length, ordinal + 1
        self._disk.write(file.descriptor, file.end, buffers)
        try:
            self._disk.sync(file.descriptor)
        except OSError:
            self._condemn(file)
            raise
        with self._changed:
            file.end, file.ordinal = end, ordinal
            file.waiting += len(group)
        return references

    def _next_file(self, need: int) -> SpoolFile:
        """Close the current file with an END frame and continue in another one, reused or new."""
        before = self._current
        if before is not None:
            # If there is no next file, the END remains and is overwritten by the next frame that fits.
            end = layout.encode_frame(layout.END, [], before.number, before.ordinal)
            self._disk.write(before.descriptor, before.end, end)
            self._disk.sync(before.descriptor)
        file = self._open_file(max(self._file_bytes, layout.FILE_HEADER.size + need + layout.frame_bytes(0)))
        with self._changed:
            self._files[file.number] = file
            self._current = file
            unused = before is not None and not before.waiting
        if before is not None and unused:
            self._retire(before)
        return file

    def _open_file(self, size: int) -> SpoolFile:
        number = self._next_number
        self._next_number += 1  # even if this fails: the remains of a file must not block the next one
        name = file_name(number)
        with self._changed:
            spare = next((file for file in self._spares if file.size >= size), None)
            if spare is not None:
                self._spares.remove(spare)
        if spare is not None:
            size = spare.size
            spare.close()
            self._disk.rename(spare.name, name)
            descriptor = self._disk.open(name)
        else:
            descriptor = self._disk.create(name, size)
        try:
            self._disk.write(descriptor, 0, [layout.encode_file_header(number)])
            self._disk.sync(descriptor)
            self._disk.sync_directory()
            file = SpoolFile(self._disk, number, descriptor, size)
        except OSError:
            os.close(descriptor)
            self._disk.remove(name)
            raise
        file.end = layout.FILE_HEADER.size
        return file

    def _condemn(self, file: SpoolFile) -> None:
        with self._changed:
            self._current = None
            unused = not file.waiting
            if unused:
                self._files.pop(file.number, None)
        if unused:
            file.close()
            self._disk.remove(file.name)

    def _retire(self, file: SpoolFile) -> None:
        """Keep an emptied file for reuse, or delete it."""
        spare_name = f"{SPARE}{file.number:016x}"
        with self._changed:
            if self._files.pop(file.number, None) is None:
                return
            keep = len(self._spares) < SPARE_FILES and file.size == self._file_bytes and not self._stopping
        if not keep:
            file.close()
            self._disk.remove(file.name)
            return
        self._disk.rename(file.name, spare_name)
        file.name = spare_name
        with self._changed:
            self._spares.append(file)

    def _fail(self, group: Sequence[_Queued], error: OSError) -> None:
        with self._changed:
            failed = [*group, *self._queue]
            self._queue.clear()
            for item in reversed(failed):
                header = item.header
                self._tails[LaneKey(header.machine, header.epoch, header.role)] = header.first_sequence
                self._allowance.give_back(header.machine, item.length)
        _log.error("The spool could not be written: %s. %d batches were not acknowledged.", error, len(failed))
        for item in failed:
            item.ticket.set_exception(_translated(error))


def _translated(error: OSError) -> FarshoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            "The process server's spool disk is full.",
            remedy="Free space there. The agent retries automatically.",
            after=2,
        )
    return TryLater(
        f"The process server's spool could not be written ({error.strerror}).",
        remedy="The agent retries automatically. Check the disk that the spool is on.",
        after=2,
    )
