"""Compare chunks that a machine hashed at a known position with the vault's, at that position.

The vault is opened as for a restore: neither the journal's digests nor the agent's accounts are trusted. The cost is
limited, whatever the machines request: one comparison at a time, with pauses between them, so that all machines
together use no more than their share of a processor.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from farshore.api_types.servers import DifferenceReport
from farshore.api_types.streams import DifferenceAnswer, ProofAnswer
from farshore.formats.batch import Role
from farshore.formats.proof import URGENT, Difference, Proof
from farshore.model.errors import Busy, Damaged, TryLater, WrongState
from farshore.model.identifiers import BLOCK, CHUNK, Epoch, MachineId, Sequence
from farshore.model.position import Position
from farshore.model.text import printable
from farshore.process_server.streams.stream import Stream
from farshore.vault.objects.differences import Differing
from farshore.vault.reading.reader_threads import metered
from farshore.vault.stores.counted import CountedStore
from farshore.vault.vault import Vault

_log = logging.getLogger(__name__)

SHARE = 0.25
"""Of one processor, for all machines together,"""
SHARE_OF_ONE = 0.01
"""and for one machine."""
BYTES = 8e6
"""Read from the vault for one machine, average bytes a second,"""
REQUESTS = 10.0
"""and requests."""
MOST_WAIT = 5.0
"""The maximum wait of an urgent proof."""
LONGEST_REST = 3600.0
"""With scattered writes a round costs 10 s of a processor: 1000 s of rest, and a margin above that."""
_CACHE_BYTES = 16 << 20
MOST_KEPT = 256
"""Differences of one epoch that are stored, each with both versions."""
MOST_REPORTS = 1_000
"""Differences that may wait to be reported to the configuration server."""
_MOST_RECALLED = 64
_MOST_STREAMS = 10_000
_STORED_SECONDS = 1.0
"""If a machine waits longer for the vault it repeats the request: it may have more important work meanwhile."""


@dataclass
class _Cost:
    """The cost of one comparison: bytes and requests of the vault, processor seconds of all threads that read for it,
    and the seconds that the machine must rest for it."""

    read: int = 0
    requests: int = 0
    seconds: float = 0.0
    rest: float = 0.0


class Proofs:
    """Safe to use from several threads."""

    def __init__(self, vault: Vault) -> None:
        """``vault`` is opened again, through a store that counts, with its own cache: nothing that was read or written
        before is taken for the vault's content."""
        self._store = CountedStore(vault.store)
        self._whole = vault
        self._opened: Vault | None = None
        self._comparing = threading.Lock()
        self._lock = threading.Lock()
        self._owed = 0.0
        self._settled = time.monotonic()
        self._reports: list[DifferenceReport] = []
        self._not_before: dict[MachineId, float] = {}
        self._kept: dict[tuple[MachineId, Epoch], int] = {}
        """The number of stored differences of a stream, in the order of use."""
        self._recalled: set[tuple[MachineId, Epoch]] = set()

    def prove(self, stream: Stream, proof: Proof) -> ProofAnswer:
        """Compare the chunks. Raises Busy, TryLater until the position is in the vault, WrongState if it never will be,
        Damaged if no chunk of the copy can be read there."""
        position = self._stored(stream, proof.sequence)
        self._recall(stream)
        try:
            with self._turn(stream) as cost:
                machine = self._vault().machine(stream.machine)
                equal = machine.proofs.equal_chunks(position, proof.disk, proof.chunks, proof.hashes)
        except Damaged as error:  # nothing of it can be opened, and later data would not help
            stream.note_trouble(f"The copy cannot be opened at {position}, so the machine resyncs. {error.message}")
            raise
        differing = proof.chunks[~equal].tolist()
        if differing:
            _log.error(
                "Machine %s: %d of %d chunks of disk %d differ from the machine's at %s.",
                stream.machine, len(differing), len(equal), proof.disk, position,
            )  # fmt: skip
        return ProofAnswer(
            differing=differing,
            rest=cost.rest,
            vault_bytes=cost.read,
            vault_requests=cost.requests,
            cpu_seconds=cost.seconds,
        )

    def differ(self, stream: Stream, found: Difference) -> DifferenceAnswer:
        """Store both versions if they really differ, and report the difference. Raises as `prove`."""
        position = self._stored(stream, found.sequence)
        stored = None
        with self._turn(stream) as cost, contextlib.suppress(Damaged):
            stored = self._vault().machine(stream.machine).proofs.stored_chunk(position, found.disk, found.chunk)
        blocks, zero = _differing(stored, bytes(found.data))
        answer = DifferenceAnswer(
            differs=bool(blocks),
            blocks=blocks,
            zero=zero,
            vault_bytes=cost.read,
            vault_requests=cost.requests,
            cpu_seconds=cost.seconds,
        )
        if not blocks or not found.keep:
            return answer
        cause = printable(found.cause, 512)
        data = bytes(found.data)
        # An equal proof does not exclude later damage: older points may read the same object.
        proven = None if stored is None else found.proven
        kept = Differing(found.disk, found.chunk, position, proven, time.time_ns(), cause, data, stored)
        if self._may_keep(stream):
            stream.vault.proofs.put_difference(kept)
        else:
            stream.note_trouble(
                f"More than {MOST_KEPT} chunks of epoch {stream.epoch} differ from the machine's disks; they are sent "
                f"again and mark points, but are not kept. Compare all of it: farshore machine resync"
            )
        self._report(_report_of(stream.machine, kept))
        return answer

    def _report(self, report: DifferenceReport) -> None:
        with self._lock:
            if len(self._reports) >= MOST_REPORTS:  # one machine must not displace the reports of another
                most = Counter(one.machine for one in self._reports).most_common(1)[0][0]
                self._reports.remove(next(one for one in self._reports if one.machine == most))
            self._reports.append(report)

    def _recall(self, stream: Stream) -> None:
        """Report, once for each stream, the differences of it that are in the vault. Only the vault knows those that
        had not been reported when a server ended; the configuration server ignores those that it knows."""
        key = (stream.machine, stream.epoch)
        if key in self._recalled:
            return
        for kept in stream.vault.proofs.differences(_MOST_RECALLED):
            if kept.position.epoch == stream.epoch:
                self._report(_report_of(stream.machine, kept))
        self._recalled.add(key)

    def _vault(self) -> Vault:
        """Open it only when needed: the store may be unreachable when the server starts."""
        if self._opened is None:
            self._opened = self._whole.over(self._store, _CACHE_BYTES)
        return self._opened

    def _may_keep(self, stream: Stream) -> bool:
        """Return whether another difference may be stored: nobody may fill the vault with them."""
        with self._lock:
            key = (stream.machine, stream.epoch)
            self._kept[key] = self._kept.pop(key, 0) + 1
            while len(self._kept) > _MOST_STREAMS:
                del self._kept[next(iter(self._kept))]
            return self._kept[key] <= MOST_KEPT

    def reports(self) -> list[DifferenceReport]:
        """Return the differences that were not reported yet."""
        with self._lock:
            return list(self._reports)

    def reported(self, told: list[DifferenceReport]) -> None:
        """Note that these were reported."""
        with self._lock:
            self._reports = [one for one in self._reports if one not in told]

    def _stored(self, stream: Stream, sequence: Sequence) -> Position:
        if not stream.base_complete or sequence < stream.consistent_from:
            raise WrongState("The epoch has no such state.", remedy="Wait until its copy is complete.")
        if sequence >= stream.next_sequence(Role.JOURNAL):
            raise TryLater(
                "The stream has not reached that position.", remedy="The proof is repeated automatically.", after=1
            )
        stream.wait_stored(Role.JOURNAL, sequence + 1, _STORED_SECONDS)
        return Position(stream.epoch, sequence)

    def _take_turn(self, stream: Stream) -> None:
        """Begin a comparison: one at a time, and no machine much earlier than it was told; a comparison that a user
        waits for may come earlier, within limits. Raises Busy."""
        with self._lock:
            wait = self._not_before.get(stream.machine, 0.0) - time.monotonic()
        if wait > 0:
            raise Busy(
                "This machine's copy was compared moments ago.",
                remedy="The proof is repeated automatically.",
                after=wait,
            )
        if not self._comparing.acquire(blocking=False):
            raise Busy(
                "Another machine's copy is being compared.", remedy="The proof is repeated automatically.", after=1
            )

    @contextlib.contextmanager
    def _turn(self, stream: Stream) -> Iterator[_Cost]:
        """Do as `_take_turn`; the work in this context is followed by a rest, however it ends."""
        self._take_turn(stream)
        cost = _Cost()
        with metered() as meter:
            try:
                self._store.taken()
                yield cost
            finally:
                cost.read, cost.requests = self._store.taken()
                self._comparing.release()
                cost.seconds = meter.seconds
                cost.rest = self._rest(stream, cost.seconds, cost.read, cost.requests)

    def _rest(self, stream: Stream, used: float, read: int, requests: int) -> float:
        """Return the seconds until the next proof of this machine: neither the processors nor the vault may be loaded
        noticeably."""
        with self._lock:
            now = time.monotonic()
            self._owed = max(0.0, self._owed - (now - self._settled) * SHARE) + used
            self._settled = now
            rest = min(LONGEST_REST, max(used / SHARE_OF_ONE, self._owed / SHARE, read / BYTES, requests / REQUESTS))
            if len(self._not_before) > _MOST_STREAMS:
                self._not_before = {one: at for one, at in self._not_before.items() if at > now}
            self._not_before[stream.machine] = now + min(MOST_WAIT, rest / URGENT)
            return rest


def _report_of(machine: MachineId, kept: Differing) -> DifferenceReport:
    return DifferenceReport(
        machine=machine,
        disk=kept.disk,
        start=kept.chunk * CHUNK,
        length=len(kept.on_disk),
        epoch=kept.position.epoch,
        sequence=kept.position.sequence,
        proven_epoch=0 if kept.proven is None else kept.proven.epoch,
        proven_sequence=0 if kept.proven is None else kept.proven.sequence,
        time=kept.found,
        cause=kept.cause if kept.in_vault is not None else f"The vault's version cannot be read. {kept.cause}",
    )


def _differing(stored: bytes | None, data: bytes) -> tuple[list[int], bool]:
    """Return the 4 KiB blocks that differ, and whether ``stored`` has only zeroes in them."""
    places = range(-(-len(data) // BLOCK))
    if stored is None or len(stored) != len(data):
        return list(places), False
    blocks = [one for one in places if stored[one * BLOCK :][:BLOCK] != data[one * BLOCK :][:BLOCK]]
    return blocks, bool(blocks) and not any(any(stored[one * BLOCK :][:BLOCK]) for one in blocks)
