"""In-memory doubles: a process server that keeps a replica, a capture ring, and clocks."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farshore.api_types.streams import Acknowledgement, BaseCompletion, DifferenceAnswer, ProofAnswer, StreamStatus
from farshore.formats.batch import Buffer, Role, decode
from farshore.formats.chunk_exchange import Comparison, Verdict
from farshore.formats.proof import Difference, Proof
from farshore.formats.record import RecordKind, payload_offsets
from farshore.mobility.capture.layout import RING_RECORD, RING_RECORD_BYTES
from farshore.mobility.copying.base_sender import chunk_hashes
from farshore.model.errors import Gap
from farshore.model.identifiers import CHUNK, SECTOR, DiskNumber
from farshore.model.states import CaptureMode

MACHINE = "00000000-0000-4000-8000-000000000001"
KEY = bytes(range(32))


class FakeClock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000_000_000_000
        self.mono = 1000.0

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.mono

    def move(self, seconds: float) -> None:
        self.wall += int(seconds * 1e9)
        self.mono += seconds


class ProcessServerDouble:
    """Keeps base and journal of one epoch apart, as a vault does; ``trouble`` is asked before every call."""

    def __init__(self, sizes: Dict[int, int], trouble: Callable[[str], None] = lambda call: None) -> None:
        self.base = {disk: np.zeros(size, np.uint8) for disk, size in sizes.items()}
        self.journal: List[Any] = []
        self.kinds: List[int] = []
        self.next = {Role.JOURNAL: 1, Role.BASE: 1}
        self.known: Dict[bytes, bytes] = {}
        self.sent_chunks = 0
        self.completed: Optional[BaseCompletion] = None
        self.differences: List[Difference] = []
        self._trouble = trouble
        self._lock = threading.Lock()

    def send_encoded(self, buffers: Sequence[Buffer], now: int = 0) -> Acknowledgement:
        self._trouble("send")
        batch = decode(b"".join(bytes(buffer) for buffer in buffers))
        with self._lock:
            expected = self.next[batch.role]
            if batch.first_sequence > expected:
                raise Gap("gap", remedy="", expected=expected)
            if batch.first_sequence == expected:
                self._apply(batch)
                self.next[batch.role] = batch.end_sequence
            ack = Acknowledgement(next_journal=self.next[Role.JOURNAL], next_base=self.next[Role.BASE])
        self._trouble("acknowledge")
        return ack

    def compare(self, comparison: Comparison) -> npt.NDArray[np.uint8]:
        self._trouble("compare")
        with self._lock:
            verdicts = np.full(len(comparison.hashes), Verdict.SEND, np.uint8)
            for index, one in enumerate(comparison.hashes):
                start = (comparison.first_chunk + index) * CHUNK
                if not one.any():
                    self.base[comparison.disk][start : start + CHUNK] = 0
                elif one.tobytes() in self.known:
                    data = np.frombuffer(self.known[one.tobytes()], np.uint8)
                    self.base[comparison.disk][start : start + len(data)] = data
                else:
                    continue
                verdicts[index] = Verdict.HAVE
            return verdicts

    def send_chunks(self, disk: DiskNumber, rows: npt.NDArray[Any], parts: Sequence[Buffer]) -> None:
        self._trouble("chunks")
        payload = b"".join(bytes(part) for part in parts)
        with self._lock:
            at = 0
            for row in rows:
                data = payload[at : at + int(row["length"])]
                assert blake3(data, key=KEY).digest() == row["hash"].tobytes()
                start = int(row["chunk"]) * CHUNK
                self.base[disk][start : start + len(data)] = np.frombuffer(data, np.uint8)
                self.known[row["hash"].tobytes()] = data
                self.sent_chunks += 1
                at += len(data)
            assert at == len(payload)

    def complete_base(self, completion: BaseCompletion) -> StreamStatus:
        self._trouble("complete")
        self.completed = completion
        return StreamStatus(
            machine=MACHINE, epoch=1, next_journal=self.next[Role.JOURNAL], next_base=1, base_complete=True
        )

    def prove(self, proof: Proof) -> ProofAnswer:
        self._trouble("prove")
        state = self.state(proof.disk, proof.sequence)
        differing = [
            chunk
            for chunk, told in zip(proof.chunks.tolist(), proof.hashes)  # noqa: B905 - Python 3.9
            if chunk_hashes(state[chunk * CHUNK : (chunk + 1) * CHUNK].data, KEY)[0].tobytes() != told.tobytes()
        ]
        return ProofAnswer(differing=differing)

    def differ(self, found: Difference) -> DifferenceAnswer:
        state = self.state(found.disk, found.sequence)[found.chunk * CHUNK :][: len(found.data)]
        told = np.frombuffer(bytes(found.data), np.uint8)
        blocks = np.flatnonzero((state.reshape(-1, 4096) != told.reshape(-1, 4096)).any(axis=1)).tolist()
        if found.keep and blocks:
            self.differences.append(found)
        return DifferenceAnswer(differs=bool(blocks), blocks=blocks, zero=not state.reshape(-1, 4096)[blocks].any())

    def state(self, disk: int, sequence: Optional[int] = None) -> npt.NDArray[np.uint8]:
        """Base overlaid with the whole journal, or the journal up to a sequence."""
        made = self.base[disk].copy()
        with self._lock:
            journal = self.journal[:sequence]
        for kind, number, start, length, data in journal:
            if number == disk and kind in (RecordKind.WRITE, RecordKind.ZERO, RecordKind.DISCARD):
                made[start : start + length] = np.frombuffer(data, np.uint8) if kind == RecordKind.WRITE else 0
        return made

    def _apply(self, batch: Any) -> None:
        offsets = payload_offsets(batch.records)
        for row, low, high in zip(batch.records, offsets[:-1], offsets[1:]):  # noqa: B905 - Python 3.9
            entry = (
                int(row["kind"]),
                int(row["disk"]),
                int(row["sector"]) * SECTOR,
                int(row["sectors"]) * SECTOR,
                bytes(batch.payload[low:high]),
            )
            if batch.role is Role.JOURNAL:
                self.journal.append(entry)
                self.kinds.append(entry[0])
            else:
                _, disk, start, length, data = entry
                fill = np.frombuffer(data, np.uint8) if entry[0] == RecordKind.WRITE else 0
                self.base[disk][start : start + length] = fill


class Drained:
    """What RingDouble.drain gives."""

    def __init__(self, ring: RingDouble, records: npt.NDArray[Any]) -> None:
        self.records = records
        self._ring = ring
        self.released = False

    def release(self) -> None:
        self.released = True
        self.records[:] = 0  # whoever still looks at it sees zeroes


class RingDouble:
    """A capture without a kernel: ``write`` adds fragments."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._fragments: List[npt.NDArray[Any]] = []
        self._read = 0
        self.mode = CaptureMode.DATA
        self.capacity = 64 << 20
        self.late: List[Callable[[], None]] = []
        """What runs of the program do that began in data mode and are still under way in bitmap mode."""

    def at_rest(self) -> bool:
        while self.late and self.mode is CaptureMode.BITMAP:
            self.late.pop(0)()
        return self.mode is CaptureMode.BITMAP

    def write(self, sector: int, data: bytes, disk: int = 0, kind: int = RecordKind.WRITE) -> None:
        fragment = np.zeros(1, RING_RECORD)
        fragment["sector"], fragment["disk"], fragment["kind"] = sector, disk, kind
        fragment["length"] = len(data)
        fragment["time"] = int(self._clock.monotonic() * 1e9)
        fragment["data"][0, : len(data)] = np.frombuffer(data, np.uint8)
        self._fragments.append(fragment)

    def position(self) -> int:
        return len(self._fragments) * RING_RECORD_BYTES

    def drained(self) -> int:
        return self._read * RING_RECORD_BYTES

    def drain(self, max_bytes: int, until: Optional[int] = None) -> Optional[Drained]:
        end = len(self._fragments) if until is None else until // RING_RECORD_BYTES
        end = min(end, self._read + max(1, max_bytes // RING_RECORD_BYTES), len(self._fragments))
        if end <= self._read:
            return None
        records = np.concatenate(self._fragments[self._read : end])
        self._read = end
        return Drained(self, records)
