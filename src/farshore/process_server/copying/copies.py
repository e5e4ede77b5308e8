"""The base copies in progress, one for each epoch that has begun one.

A copy's parent position is decided at its first request: it is the last record of the parent epoch that this server or
the vault has, or the position that a failover chose (``exact``). It is in the vault before the first comparison,
because chunks are compared with the replica as it was there. A HEAL epoch copies the blocks in the dirty bitmap, and
the chunks of disks that are new or have grown; everything else is as at the parent, which must reach at least as far as
the agent's acknowledged records.

A chunk counts as durable when the epoch is complete, not before: completion makes packs and maps durable and is refused
while a chunk is missing (see coverage). After a restart the copy continues where it was (see told).
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from farshore.api_types.machines import Description, EpochKind
from farshore.api_types.servers import StreamGrant
from farshore.api_types.streams import BaseCompletion
from farshore.formats.batch import Role
from farshore.formats.chunk_exchange import Chunks, Comparison, Verdict
from farshore.model.errors import Damaged, NotFound, TryLater, WrongState
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, MachineId, Sequence
from farshore.model.machine import DiskDescription, MachineDescription, NicDescription
from farshore.model.position import Position
from farshore.process_server.copying.coverage import CopyCoverage
from farshore.process_server.copying.told import LIMITS, ToldLimits, ToldLog, sweep
from farshore.process_server.streams.registry import Streams
from farshore.process_server.streams.stream import Stream
from farshore.vault.objects.base_copy import BaseCopy
from farshore.vault.objects.epochs import EpochRecord

_log = logging.getLogger(__name__)

STORE_SECONDS = 25.0
"""How long one request waits for the vault; the agent repeats it."""

Key = tuple[MachineId, Epoch]


class Copy:
    """The copy of one epoch. Comparisons and chunks may come on several connections at once."""

    def __init__(self, stream: Stream, grant: StreamGrant, parent: Position | None, log: ToldLog) -> None:
        self.kind, self.domain = grant.kind, grant.domain
        self.last_used = time.monotonic()
        disks = [(DiskNumber(disk.number), disk.size) for disk in grant.description.disks if not disk.excluded]
        self._stream = stream
        self._description = grant.description
        self._base = self._begin(disks, parent)
        self.parent = self._base.parent
        self._coverage = CopyCoverage(disks, self._inherited(disks))
        self._noted = CopyCoverage(disks)
        """What is in the log."""
        self._lock = threading.Lock()
        self._completing = threading.Lock()
        self._told_log = log
        for comparison in log.replay():
            self._compare(comparison)
            self._note(comparison)
        if self.told:
            _log.info(
                "Machine %s: the copy of epoch %d continues at %d chunks.", stream.machine, stream.epoch, self.told
            )

    def _begin(self, disks: list[tuple[DiskNumber, int]], parent: Position | None) -> BaseCopy:
        """Begin the copy. A resync whose parent is damaged continues without it, by its chunks alone; a heal cannot."""
        stream = self._stream
        try:
            return stream.vault.bases.begin_copy(stream.epoch, disks, parent, self.domain)
        except (Damaged, NotFound) as error:
            if parent is None:
                raise
            if self.kind is EpochKind.HEAL:
                raise WrongState(
                    f"The parent state {parent} of the epoch cannot be opened: {error.message}",
                    remedy="The agent automatically resyncs by hash instead.",
                ) from error
            _log.warning("Machine %s: epoch %d does not build on an older one: %s", stream.machine, stream.epoch, error)
            return stream.vault.bases.begin_copy(stream.epoch, disks, None, self.domain)

    @property
    def told(self) -> int:
        """The number of chunks compared or received so far."""
        with self._lock:
            return self._coverage.told

    def compare(self, comparison: Comparison) -> npt.NDArray[np.uint8]:
        """Return one Verdict a chunk. Raises Malformed, Damaged and the vault's errors."""
        self.last_used = time.monotonic()
        verdicts = self._compare(comparison)
        if self._note(comparison):
            self._told_log.add(comparison)
        return verdicts

    def _note(self, comparison: Comparison) -> bool:
        """Return whether it contains a chunk that the log does not."""
        with self._lock:
            every = np.ones(len(comparison.hashes), np.bool_)
            return self._noted.add_run(comparison.disk, comparison.first_chunk, every)

    def _compare(self, comparison: Comparison) -> npt.NDArray[np.uint8]:
        verdicts = self._base.compare(comparison)
        with self._lock:
            self._coverage.add_run(comparison.disk, comparison.first_chunk, verdicts != Verdict.SEND)
        return verdicts

    def missing(self, limit: int) -> list[tuple[DiskNumber, int, int]]:
        """Return runs of chunks that still have to be compared: (disk, first chunk, chunks)."""
        with self._lock:
            return self._coverage.ranges_missing(limit)

    def put(self, chunks: Chunks) -> None:
        """Receive chunks. Raises Damaged if one does not match its hash, Malformed and the vault's errors."""
        self.last_used = time.monotonic()
        self._base.put(chunks)
        with self._lock:
            self._coverage.add(chunks.disk, chunks.rows["chunk"].astype(np.int64))

    def complete(self, completion: BaseCompletion) -> None:
        """Make the epoch visible in the vault: overlay and journal, chunks, maps, description, then its document.

        Raises WrongState if the copy is not complete, TryLater while the vault is behind. May be repeated."""
        if not self._completing.acquire(timeout=STORE_SECONDS):
            raise TryLater("The epoch is being completed.", remedy="Repeat the request.", after=1)
        try:
            if not self._stream.base_complete:
                self._complete(completion)
        finally:
            self._completing.release()

    def close(self) -> None:
        """Release the replica that was compared with; the log remains if the copy may continue."""
        self._base.close()
        self._told_log.close(forget=self._stream.base_complete or self._stream.fenced)

    def _complete(self, completion: BaseCompletion) -> None:
        stream = self._stream
        with self._lock:
            missing = self._coverage.missing()
        if missing:
            raise WrongState(
                f"The copy is not complete: {missing}.",
                remedy="The agent compares the missing chunks again automatically. Only missing chunks are sent.",
            )
        base_end = stream.next_sequence(Role.BASE)
        if completion.base_end > base_end:
            raise WrongState(
                f"Base records {base_end} to {completion.base_end - 1} of this epoch are lost with the "
                "process server that had acknowledged them.",
                remedy="The agent automatically opens a new epoch and resyncs.",
            )
        if completion.consistent_from >= stream.next_sequence(Role.JOURNAL):
            raise WrongState(
                f"Record {completion.consistent_from} of the journal has not arrived.",
                remedy="Send the journal first. If another process server had acknowledged it, open a new epoch.",
            )
        stream.wait_stored(Role.BASE, base_end, STORE_SECONDS)
        stream.wait_stored(Role.JOURNAL, completion.consistent_from + 1, STORE_SECONDS)
        disks = self._base.finish()
        stream.vault.writing.put_description(_described(self._description), stream.epoch)
        record = EpochRecord(
            epoch=stream.epoch,
            kind=self.kind.value,
            parent=self.parent,
            consistent_from=Sequence(completion.consistent_from),
            time=completion.time,
            base_end=Sequence(base_end),
            disks=disks,
            description=stream.epoch,
            only_points=completion.only_points,
            domain=self.domain,
        )
        if not stream.vault.writing.put_epoch(record):
            record = stream.vault.stored.timeline().record(stream.epoch)
        stream.base_is_complete(record.consistent_from, record.time, only_points=record.only_points)
        _log.info(
            "Machine %s: epoch %d is consistent from %d on.", stream.machine, stream.epoch, record.consistent_from
        )

    def _inherited(self, disks: list[tuple[DiskNumber, int]]) -> dict[DiskNumber, int]:
        """Return how many of each disk's first chunks a healing epoch inherits from its parent: the complete chunks of
        the old size."""
        if self.kind is not EpochKind.HEAL or self.parent is None:
            return {}
        record = self._stream.vault.stored.timeline().record(self.parent.epoch)
        known = {disk.number: disk.size for disk in record.disks}
        return {
            number: -(-size // CHUNK) if size == known[number] else min(size, known[number]) // CHUNK
            for number, size in disks
            if number in known
        }


class Copies:
    """Copies by stream. Safe to use from several threads."""

    def __init__(self, streams: Streams, folder: Path, limits: ToldLimits = LIMITS) -> None:
        """``folder`` has the logs of received comparisons, within ``limits``."""
        self._streams = streams
        self._limits = limits
        self._folder = folder
        self._copies: dict[Key, Copy] = {}
        self._opening: dict[Key, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, stream: Stream, grant: StreamGrant) -> Copy:
        """Return the epoch's copy; begin it if necessary. Raises WrongState if it is complete, TryLater, the vault's
        errors."""
        if stream.base_complete:
            raise WrongState("This epoch's base is complete.", remedy="Open a new epoch to copy again.")
        key = (stream.machine, stream.epoch)
        with self._lock:
            found = self._copies.get(key)
            opening = self._opening.setdefault(key, threading.Lock())
        if found is not None:
            return found
        with opening:
            with self._lock:
                found = self._copies.get(key)
            if found is None:
                sweep(self._folder, stream.machine, stream.epoch)
                log = ToldLog(self._folder, stream.machine, stream.epoch, self._limits)
                found = Copy(stream, grant, self._parent(stream, grant), log)
                with self._lock:
                    self._copies[key] = found
        return found

    def told(self, stream: Stream) -> int:
        """Return the number of chunks that a stream's copy has received."""
        with self._lock:
            found = self._copies.get((stream.machine, stream.epoch))
        return 0 if found is None else found.told

    def drop(self, stream: Stream) -> None:
        """Drop the copy of a stream that is complete or closed."""
        with self._lock:
            found = self._copies.pop((stream.machine, stream.epoch), None)
            self._opening.pop((stream.machine, stream.epoch), None)
        if found is not None:
            found.close()

    def _parent(self, stream: Stream, grant: StreamGrant) -> Position | None:
        if not grant.parent_epoch:
            return None
        parent = self._streams.find(stream.machine, Epoch(grant.parent_epoch))
        end = parent.next_sequence(Role.JOURNAL)
        if grant.kind is EpochKind.HEAL and end - 1 < grant.parent_sequence:
            raise WrongState(
                f"This process server has epoch {grant.parent_epoch} up to {end - 1}, not {grant.parent_sequence}.",
                remedy="The agent automatically resyncs by hash instead.",
            )
        if grant.exact:
            # Chosen by a failover, which found it in the vault. If the vault has merged it since, only the chunks help.
            return Position(parent.epoch, Sequence(grant.parent_sequence))
        parent.wait_stored(Role.JOURNAL, end, STORE_SECONDS)
        return Position(parent.epoch, Sequence(end - 1))


def _described(body: Description) -> MachineDescription:
    return MachineDescription(
        hostname=body.hostname,
        firmware=body.firmware,
        processors=body.processors,
        memory=body.memory,
        operating_system=body.operating_system,
        kernel=body.kernel,
        architecture=body.architecture,
        hardware_id=body.hardware_id,
        disks=tuple(
            DiskDescription(
                DiskNumber(disk.number),
                disk.name,
                disk.size,
                disk.logical_block_size,
                disk.serial,
                disk.boot,
                disk.excluded,
            )
            for disk in body.disks
        ),
        nics=tuple(NicDescription(nic.name, nic.mac, tuple(nic.addresses)) for nic in body.nics),
        boot_entries=tuple(body.boot_entries),
    )
