"""Decide what must be proven and how fast, and keep the state of the proofs: shared by the epochs' provers and by
reports.

By default the agent reads 2 MB/s of its disks for proofs, and nothing while other programs need the processors. Blocks
that were copied or may have been missed (a heal, a mend, a resync) come first and faster, up to 1 GiB each time.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from farshore.api_types.machines import ProofRun, ProofStanding
from farshore.api_types.streams import DifferenceAnswer, ProofAnswer
from farshore.mobility.capture.bitmap import Ranges
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.proving.coverage import ProofCoverage, Proven
from farshore.mobility.proving.edges import left_out_chunks
from farshore.model.identifiers import BLOCK, CHUNK, DiskNumber
from farshore.model.ports import Clock

log = logging.getLogger(__name__)

PACE = 2_000_000
"""Bytes a second."""
LATELY = 7 * 24 * 3600 * 10**9
FAST_BYTES = 1 << 30
FAST_PACE = FAST_BYTES // 30
"""Bytes a second: chunks that came into doubt at once are proven within a minute. Half of the time is for reading, the
other half for comparing and for the rests that the server asks for."""
SCANNED = "shows that the copy equals what the scan read, but not that the disks were unchanged during the scan."
_BLOCKS = CHUNK // BLOCK
_SAVE_SECONDS = 300.0
_CAUSES = 64


@dataclass
class Demand:
    """A proof that somebody requests now. ``left``: runs of chunks (disk, first, end)."""

    left: List[Tuple[DiskNumber, int, int]]
    total: int
    done: int = 0
    proven: int = 0
    differing: int = 0
    busy: int = 0
    """Chunks that were written each time that they were read."""
    failed: str = ""

    def take(self, most: int) -> List[Tuple[DiskNumber, int, int]]:
        """Return the next runs of it, at most ``most`` chunks together."""
        taken: List[Tuple[DiskNumber, int, int]] = []
        while self.left and most:
            disk, first, end = self.left.pop(0)
            size = min(most, end - first)
            taken.append((disk, first, first + size))
            most -= size
            if first + size < end:
                self.left.insert(0, (disk, first + size, end))
        return taken

    def note(self, disk: DiskNumber, equal: int, differing: Sequence[int]) -> None:
        """Record the number of equal chunks, and those that differ and are compared again."""
        self.proven += equal
        for chunk in differing:
            self.again(disk, chunk)

    def again(self, disk: DiskNumber, chunk: int) -> None:
        """Compare a chunk again at the end."""
        if (disk, chunk, chunk + 1) not in self.left:
            self.left.append((disk, chunk, chunk + 1))
            self.total += 1


class Proving:
    """One for the life of the agent. Safe to use from several threads."""

    def __init__(self, path: Optional[Path], clock: Clock) -> None:
        self.coverage = ProofCoverage(path)
        self.pace = PACE
        """Bytes a second that are read; 0: only requested proofs."""
        self.paused = ""
        """Reason why nothing is proven now; "" if proofs continue."""
        self.weaker = ""
        """What a proof means if that is less than that all bytes are equal; "" if it means just that."""
        self.wake = threading.Event()
        """Set when there is something to do at once."""
        self.judging_until = 0.0
        """Seconds of the monotonic clock; until then it may become clear why chunks differ. 0: none is suspected."""
        self._clock = clock
        self._fast = min(FAST_BYTES, self.coverage.doubtful * CHUNK)  # what an earlier run had not proven in time
        self._lock = threading.Lock()
        self._demand: Optional[Demand] = None
        self._causes: List[str] = []
        self.generation = 0
        """Of the coverage: an earlier proof must not end a later doubt."""
        self._saved = clock.monotonic()
        self._compared = self._vault_bytes = self._vault_requests = 0
        self._used = self._server_used = 0.0

    def note_cost(self, chunks: int, answer: Union[ProofAnswer, DifferenceAnswer]) -> None:
        """Record the number of compared chunks and the cost of comparing them."""
        with self._lock:
            self._compared += chunks
            self._vault_bytes += answer.vault_bytes
            self._vault_requests += answer.vault_requests
            self._server_used += answer.cpu_seconds

    def note_used(self, seconds: float) -> None:
        """Record processor time of this machine that was used for proofs."""
        with self._lock:
            self._used += seconds

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count the calling thread's work inside as work for proofs."""
        began = time.thread_time()
        try:
            yield
        finally:
            self.note_used(time.thread_time() - began)

    def begin(self, disks: Sequence[CopiedDisk], *, anew: bool) -> None:
        """Begin an epoch with these disks. ``anew``: its copy is the first one."""
        with self._lock:
            self.generation += 1
        self.paused = self.weaker = ""  # an epoch whose proofs mean less says so
        self.judging_until = 0.0
        self.coverage.carry()
        sizes = {disk.number: -(-disk.size // CHUNK) for disk in disks}
        # The bytes read there are not the disk's, and the copy gets the contents of the area a little after its end.
        self.coverage.fit(sizes, {disk.number: left_out_chunks(disk) for disk in disks})
        if anew:
            self.coverage.forget()
        demand = self.demanded
        if demand is not None:
            demand.left = [
                (disk, first, min(end, sizes[disk])) for disk, first, end in demand.left if first < sizes.get(disk, 0)
            ]

    def prove(self, generation: int, disk: DiskNumber, chunks: Sequence[int], at: Proven) -> None:
        """Record that these chunks (sorted) are equal to their copy, unless an epoch has begun since ``generation``."""
        with self._lock:
            if generation == self.generation:
                self.coverage.prove(disk, chunks, at)

    def doubt(self, blocks: Mapping[DiskNumber, Ranges], cause: str) -> None:
        """Mark these 4 KiB blocks (first, count) as doubtful: they were read outside of the stream's order, or may have
        been missed."""
        for number, ranges in blocks.items():
            for first, count in ranges.tolist():
                self.doubt_chunks(number, first // _BLOCKS, -(-(first + count) // _BLOCKS), cause)
        self.note_cause(cause)

    def doubt_chunks(self, disk: DiskNumber, first: int, end: int, cause: str) -> None:
        """Mark chunks [first, end) as doubtful, as ``doubt`` does for blocks. A fast proof that is running
        continues."""
        self.coverage.doubt(disk, first, end, cause)
        with self._lock:
            self._fast = min(FAST_BYTES, self._fast + (end - first) * CHUNK)
        self.wake.set()

    def note_cause(self, cause: str) -> None:
        """Record an event that could explain a difference anywhere."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock.now() / 1e9))
        with self._lock:
            self._causes = [*self._causes[-_CAUSES + 1 :], f"{cause} ({moment})"]

    def explain(self, disk: DiskNumber, chunk: int) -> str:
        """Return the newest cause that could explain that this chunk differs."""
        own = self.coverage.cause(disk, chunk)
        with self._lock:
            newest = self._causes[-1] if self._causes else ""
        return own or newest or "nothing is known that could explain it"

    def pace_now(self) -> int:
        """Return the number of bytes a second."""
        with self._lock:
            return max(self.pace, FAST_PACE) if self._fast > 0 and self.pace else self.pace

    @property
    def judging(self) -> bool:
        """Return whether to wait a little longer, because the reason for a difference may soon be known. Limited: the
        chunks may be written all the time."""
        return self._clock.monotonic() < self.judging_until

    def read(self, size: int) -> None:
        """Count bytes that were read for proofs, without repeated reading of written chunks."""
        with self._lock:
            self._fast = max(0, self._fast - size)
        if not self.coverage.doubtful:
            with self._lock:
                self._fast = 0

    # ---- on demand ----

    def demand(self, *, whole: bool) -> Demand:
        """Prove now: all chunks, or what is in doubt, was never proven, or not for a week, at most FAST_BYTES of it."""
        now = self._clock.now()
        left = self.coverage.everything() if whole else self.coverage.next(FAST_BYTES // CHUNK, now)
        made = Demand(left, sum(end - first for _, first, end in left))
        with self._lock:
            self._demand = made
        self.wake.set()
        return made

    @property
    def demanded(self) -> Optional[Demand]:
        """Return the requested proof, or None."""
        with self._lock:
            return self._demand

    def met(self, demand: Demand, failed: str = "") -> None:
        """Record that nobody waits for the requested proof any longer."""
        with self._lock:
            demand.failed = failed
            if self._demand is demand:
                self._demand = None

    # ---- how it stands ----

    def standing(self) -> ProofStanding:
        """Return the state of the proofs for the heartbeat."""
        demand, now = self.demanded, self._clock.now()
        run = None if demand is None else ProofRun(total=demand.total * CHUNK, done=demand.done * CHUNK)
        return ProofStanding(
            disks=list(self.coverage.standing(now - LATELY, now).values()),
            differences=self.coverage.differences,
            excused=self.coverage.excused,
            unjudged=self.coverage.unjudged,
            differing=self.coverage.differing,
            compared=self._compared,
            vault_bytes=self._vault_bytes,
            vault_requests=self._vault_requests,
            cpu_seconds=self._used,
            server_cpu_seconds=self._server_used,
            pace=self.pace,
            paused=self.paused,
            weaker=self.weaker or self._weaker(),
            run=run,
        )

    def _weaker(self) -> str:
        """Return a text about chunks that were proven in scan mode: their proof is weaker until they are proven
        again."""
        share = self.coverage.weak
        if not share:
            return ""
        # Rounded up, so that nothing counts for more than it means.
        return f"{-(-share * 1000 // 1) / 10:.1f} % of what is proven was proven in scan mode, which {SCANNED}"

    def save_if_due(self, *, now: bool = False) -> None:
        """Store the coverage now and then."""
        if not now and self._clock.monotonic() < self._saved + _SAVE_SECONDS:
            return
        self._saved = self._clock.monotonic()
        try:
            self.coverage.save()
        except OSError as error:
            log.warning("What was proven cannot be written down (%s).", error.strerror)
