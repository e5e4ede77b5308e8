"""Remember what of each disk has been proven equal to its copy, and when; what is in doubt; what was discarded.

It outlives epochs and restarts: a file in the agent's folder stores it (see Proving.save_if_due). Memory grows with the
number of ranges, not with the disks' size.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any, Callable, DefaultDict, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from farshore.api_types.machines import DiskProof
from farshore.mobility.proving.spans import Spans, Value, runs
from farshore.mobility.proving.watch import discarded_spans
from farshore.model.identifiers import DiskNumber, Epoch
from farshore.model.identifiers import Sequence as SequenceNumber
from farshore.model.position import Position

log = logging.getLogger(__name__)

_TOGETHER = 60 * 10**9
"""Neighbours proven within this time (ns) of each other become one span with the older time and position."""
_MOST_DIFFERENCES = 10_000
_NEVER_FORGOTTEN = 1 << 40
_LONGEST_LEFT = 3600 * 10**9
"""No chunk is postponed for longer (ns): a later time came from a clock that was ahead."""
_NOTHING: Mapping[DiskNumber, Sequence[Tuple[int, int]]] = {}


class Proven(NamedTuple):
    """When (ns since 1970 UTC) and where in the stream chunks were found equal."""

    time: int
    epoch: int
    sequence: int
    weak: int = 0
    """1: by a scan, which proves less (see Proving.weaker)."""


Table = DefaultDict[DiskNumber, Spans[Value]]
"""By disk."""


class ProofCoverage:
    """Safe to use from several threads."""

    def __init__(self, path: Optional[Path]) -> None:
        """``path``: the file for it; None: it is not stored. What cannot be read is proven again."""
        self._path = path
        self._lock = threading.RLock()
        self._sizes: Dict[DiskNumber, int] = {}
        """Each disk's size in chunks."""
        self._proven: Table[Proven] = defaultdict(lambda: Spans(_joined))
        self._before: Table[Proven] = defaultdict(lambda: Spans(_joined))
        """What is in doubt: the place of its last proof, because points from before that are not affected."""
        self._doubts: Table[str] = defaultdict(lambda: Spans(_same))
        self._discarded: Table[bool] = defaultdict(discarded_spans)
        self._left_out: Table[bool] = defaultdict(lambda: Spans(_same, _NEVER_FORGOTTEN))
        self._busy: Table[int] = defaultdict(lambda: Spans(_same))
        self._differing: Set[Tuple[DiskNumber, int]] = set()
        self._suspected: Set[Tuple[DiskNumber, int]] = set()
        self._carried: Set[Tuple[DiskNumber, int]] = set()
        """Suspected in an epoch that ended before they were judged."""
        self.unjudged = 0
        """Chunks that differed when their epoch ended, and were equal in a later one: the reason is unknown."""
        self.differences = 0
        """The number of chunks that were ever found to differ."""
        self.excused = 0
        """Chunks that were sent again without a report: something other than a fault explains the difference."""
        self._version = self._written = 0
        self._saving = threading.Lock()
        try:
            self._load()
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("What was proven before is not known (%s): it is proven again.", error)
            self.forget()

    def fit(
        self, sizes: Mapping[DiskNumber, int], left_out: Mapping[DiskNumber, Sequence[Tuple[int, int]]] = _NOTHING
    ) -> None:
        """Set the disks, by their number of chunks, and runs of chunks (first, end) that are not copied. Other disks
        are dropped."""
        with self._lock:
            self._sizes = dict(sizes)
            self._left_out.clear()
            for disk, all_of in left_out.items():
                for first, end in all_of:
                    self._left_out[disk].put(first, min(end, sizes.get(disk, 0)), True)
                    for table in (self._proven, self._before, self._doubts, self._discarded):
                        if disk in table:
                            table[disk].cut(first, end)
            for table in (self._proven, self._before, self._doubts, self._discarded):
                for disk in list(table):
                    if disk not in sizes:
                        del table[disk]
                    else:
                        table[disk].cut(sizes[disk], 1 << 62)
            for known in (self._differing, self._suspected, self._carried):
                known -= {
                    (disk, chunk)
                    for disk, chunk in known
                    if chunk >= sizes.get(disk, 0) or self._left_out[disk].within(chunk, chunk + 1)
                }

    def carry(self) -> None:
        """Carry proofs over to a new epoch, and drop suspicions."""
        with self._lock:
            self._carried |= set(sorted(self._suspected)[: _MOST_DIFFERENCES - len(self._carried)])
            self._suspected.clear()

    def forget(self) -> None:
        """Drop all proofs, because the copy is another one."""
        with self._lock:
            self._proven.clear()
            self._before.clear()
            self._doubts.clear()
            self._discarded.clear()
            self._differing.clear()
            self._suspected.clear()
            self._carried.clear()
            self._version += 1

    def doubt(self, disk: DiskNumber, first: int, end: int, cause: str) -> None:
        """Mark chunks [first, end) to be proven first: they were copied, or may have been missed."""
        with self._lock:
            for one in self._proven[disk].within(first, end):
                self._before[disk].put(*one)
            self._proven[disk].cut(first, end)
            self._doubts[disk].put(first, end, cause)
            self._version += 1

    def discarded(self, disk: DiskNumber, first: int, end: int) -> None:
        """Mark chunks as discarded: their content on the disk is undefined until they are written again."""
        with self._lock:
            self._discarded[disk].put(first, end, True)
            self._version += 1

    def prove(self, disk: DiskNumber, chunks: Sequence[int], at: Proven) -> None:
        """Note that these chunks (sorted) are equal to their copy."""
        with self._lock:
            outdated = self._before[disk], self._doubts[disk], self._discarded[disk]
            for first, end in runs(chunks):
                self._proven[disk].put(first, end, at)
                for one in self._left_out[disk].within(first, end):
                    self._proven[disk].cut(one.first, one.end)
                for table in outdated:
                    table.cut(first, end)
            if self._differing or self._suspected or self._carried:
                equal = {(disk, chunk) for chunk in chunks}
                self._differing -= equal
                self._suspected -= equal
                lost = len(self._carried & equal)
                if lost:
                    self._carried -= equal
                    self.unjudged += lost
                    fields = {"disk": disk, "chunks": lost}
                    log.warning(
                        "Chunks that differed are equal again; the reason is not known.", extra={"fields": fields}
                    )
            self._version += 1

    def differs(self, disk: DiskNumber, chunk: int, *, told: bool) -> None:
        """Record that this chunk is not equal to its copy. ``told``: it counts as a difference."""
        with self._lock:
            if told:
                if len(self._differing) < _MOST_DIFFERENCES:
                    self._differing.add((disk, chunk))
                self.differences += 1
            self._suspected.discard((disk, chunk))
            self._carried.discard((disk, chunk))
            self.doubt(disk, chunk, chunk + 1, "it differed, and was sent again")

    def suspect(self, disk: DiskNumber, chunk: int, until: int) -> None:
        """Record that this chunk was not equal to its copy, perhaps only for a moment. It is compared again at
        ``until``."""
        with self._lock:
            self._carried.discard((disk, chunk))
            if len(self._suspected) < _MOST_DIFFERENCES:
                self._suspected.add((disk, chunk))
            self.doubt(disk, chunk, chunk + 1, self.cause(disk, chunk))
            self._busy[disk].put(chunk, chunk + 1, until)

    def is_discarded(self, disk: DiskNumber, chunk: int) -> bool:
        """Return whether some of it was discarded since it was proven."""
        with self._lock:
            return bool(self._discarded[disk].within(chunk, chunk + 1))

    def last(self, disk: DiskNumber, chunk: int) -> Optional[Position]:
        """Return a place in the stream at or after which the chunk was proven last; None: unknown."""
        with self._lock:
            found = self._proven[disk].within(chunk, chunk + 1) or self._before[disk].within(chunk, chunk + 1)
        return Position(Epoch(found[0].value.epoch), SequenceNumber(found[0].value.sequence)) if found else None

    def cause(self, disk: DiskNumber, chunk: int) -> str:
        """Return why the chunk is in doubt; "" if it is not, or the reason is unknown."""
        with self._lock:
            found = self._doubts[disk].within(chunk, chunk + 1)
        return found[0].value if found else ""

    @property
    def differing(self) -> int:
        """The number of chunks that were found to differ and were not proven since."""
        with self._lock:
            return len(self._differing)

    @property
    def weak(self) -> float:
        """The share of the proven chunks that a scan proved."""
        with self._lock:
            spans = [one for all_of in self._proven.values() for one in all_of]
        weak = sum(one.end - one.first for one in spans if one.value.weak)
        return weak / sum(one.end - one.first for one in spans) if weak else 0.0

    @property
    def doubtful(self) -> int:
        """Chunks in doubt."""
        with self._lock:
            return sum(spans.chunks for spans in self._doubts.values())

    def postpone(self, disk: DiskNumber, chunks: Sequence[int], until: int) -> None:
        """Postpone these chunks (sorted) until then, ns since 1970 UTC: they are written all the time."""
        with self._lock:
            for first, end in runs(chunks):
                self._busy[disk].put(first, end, until)

    def urgent(self) -> List[Tuple[DiskNumber, int, int]]:
        """Return the chunks that differ: the machine is not protected while there are any."""
        with self._lock:
            return [(disk, chunk, chunk + 1) for disk, chunk in self._differing]

    def next(self, most: int, now: int) -> List[Tuple[DiskNumber, int, int]]:
        """Return up to ``most`` chunks to be proven next, as runs (disk, first, end): those in doubt, then those never
        proven, then those proven longest ago."""
        chosen: List[Tuple[DiskNumber, int, int]] = []
        with self._lock:
            for busy in self._busy.values():
                for one in [one for one in busy if not now < one.value <= now + _LONGEST_LEFT]:
                    busy.cut(one.first, one.end)
            for disk, low, high in self._by_urgency(now):
                for free, until in self._busy[disk].gaps(low, high):
                    for first, end in self._left_out[disk].gaps(free, until):
                        take = min(end - first, most)
                        chosen.append((disk, first, first + take))
                        most -= take
                        if not most:
                            return chosen
        return chosen

    def everything(self) -> List[Tuple[DiskNumber, int, int]]:
        """Return all chunks that are copied, as runs (disk, first, end)."""
        with self._lock:
            return [
                (disk, first, end)
                for disk, size in self._sizes.items()
                for first, end in self._left_out[disk].gaps(0, size)
            ]

    def _by_urgency(self, now: int) -> Iterator[Tuple[DiskNumber, int, int]]:
        for disk, chunk in self._differing:
            yield disk, chunk, chunk + 1
        for disk, doubts in self._doubts.items():
            for doubt in doubts:
                yield disk, doubt.first, doubt.end
        for disk, size in self._sizes.items():
            doubted = self._doubts[disk]
            for low, high in self._proven[disk].gaps(0, size):
                for first, end in doubted.gaps(low, high):
                    yield disk, first, end
        old = [
            # A time in the future has no meaning: the clock was ahead. What a scan proved is proven again first.
            (one.value.time if one.value.time <= now and not one.value.weak else 0, disk, one.first, one.end)
            for disk, all_of in self._proven.items()
            for one in all_of
        ]
        for _, disk, first, end in sorted(old):
            yield disk, first, end

    def standing(self, since: int, now: int) -> Dict[DiskNumber, DiskProof]:
        """Return the state of each disk at ``now`` (ns since 1970 UTC); ``lately``: proven at ``since`` or later. What
        was proven by a clock that was ahead counts as proven, at an unknown time."""
        with self._lock:
            found = {}
            for disk, total in self._sizes.items():
                spans = list(self._proven[disk])
                times = [one.value.time for one in spans if one.value.time <= now]
                first = min(((one.value.epoch, one.value.sequence) for one in spans), default=(0, 0))
                found[disk] = DiskProof(
                    disk=disk,
                    chunks=total - self._left_out[disk].chunks,
                    proven=self._proven[disk].chunks,
                    lately=sum(one.end - one.first for one in spans if since <= one.value.time <= now),
                    doubtful=self._doubts[disk].chunks,
                    oldest=max(0, min(times, default=0)),
                    newest=max(0, max(times, default=0)),
                    first_epoch=first[0],
                    first_sequence=first[1],
                )
            return found

    def save(self) -> None:
        """Write the file, if something has changed. Raises OSError."""
        with self._saving:  # two writers of one file would make it unreadable
            self._save()

    def _save(self) -> None:
        with self._lock:
            if self._path is None or self._version == self._written:
                return
            document = {
                "format": 1,
                "differences": self.differences,
                "excused": self.excused,
                "unjudged": self.unjudged,
                "suspected": sorted(self._suspected | self._carried),
                "differing": sorted(self._differing),
                "proven": _listed(self._proven),
                "before": _listed(self._before),
                "doubts": _listed(self._doubts),
                "discarded": _listed(self._discarded),
            }
            version = self._version
        made = self._path.with_suffix(".new")
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file)
        made.replace(self._path)
        self._written = version

    def _load(self) -> None:
        if self._path is None:
            return
        document = json.loads(self._path.read_text(encoding="utf-8"))
        tables: List[Tuple[str, Table[Any], Callable[[Any], Any]]] = [
            ("proven", self._proven, lambda value: Proven(*map(int, value))),
            ("before", self._before, lambda value: Proven(*map(int, value))),
            ("doubts", self._doubts, str),
            ("discarded", self._discarded, bool),
        ]
        for name, table, read in tables:
            for disk, spans in document.get(name, {}).items():
                for first, end, value in spans:
                    table[DiskNumber(int(disk))].put(int(first), int(end), read(value))
        self._differing = {(DiskNumber(int(disk)), int(chunk)) for disk, chunk in document["differing"]}
        self.differences = int(document["differences"])
        self.excused = int(document.get("excused", 0))
        self.unjudged = int(document.get("unjudged", 0))
        self._carried = {(DiskNumber(int(disk)), int(chunk)) for disk, chunk in document.get("suspected", [])}


def _joined(one: Proven, other: Proven) -> Optional[Proven]:
    if (one.epoch, one.weak) != (other.epoch, other.weak) or abs(one.time - other.time) > _TOGETHER:
        return None
    return Proven(min(one.time, other.time), one.epoch, min(one.sequence, other.sequence), one.weak)


def _same(one: Any, other: Any) -> Any:
    return one if one == other else None


def _listed(table: Mapping[DiskNumber, Spans[Any]]) -> Dict[str, List[List[Any]]]:
    return {str(disk): [[one.first, one.end, _plain(one.value)] for one in spans] for disk, spans in table.items()}


def _plain(value: Any) -> Any:
    """Return the form that an earlier release reads, which knows no weak proofs; it continues after a failed
    upgrade."""
    return value[:3] if isinstance(value, Proven) and not value.weak else value
