"""What a vault holds of one machine's stream: epochs, segments and layers, and which of them make up a state.

A segment's name carries its range and time, so a listing alone gives every crash-consistent point. Segments may
overlap (a process server that crashed between two puts cut the same batches anew); they then hold the same records.
They may not leave a gap: what lies behind one is never offered as a point nor opened.

A state needs the journal from sequence 1 on. Layers stand for many segments at once; the longest that fit are taken
first, then the segments behind them. Only the segments behind the layers are listed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field

from farshore.formats import vault_names
from farshore.formats.batch import Role
from farshore.formats.vault_names import DATA_TIER, LayerName, SegmentName
from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import Epoch, MachineId, Sequence
from farshore.model.position import Position
from farshore.vault.objects.epochs import EpochRecord
from farshore.vault.objects.layers import Layer
from farshore.vault.objects.opening import read_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.reading.reader_threads import ReaderThreads
from farshore.vault.stores.listed_once import ListedOnce
from farshore.vault.stores.port import Listed, Store

_READERS = 8
_FIRST = Sequence(1)


@dataclass(frozen=True)
class StoredSegment:
    """A segment in the store."""

    segment: SegmentName
    object: Listed


@dataclass(frozen=True)
class StoredLayer:
    """A layer in the store."""

    layer: LayerName
    object: Listed


@dataclass(frozen=True)
class StoredRange:
    """The journal records ``[begin, end)``, to be taken from a layer (then it is its whole range) or a segment."""

    begin: int
    end: int
    stored: StoredSegment | StoredLayer


@dataclass
class SegmentRun:
    """Segments of one epoch and role without gaps or overlaps, from ``start`` to ``end`` (half-open)."""

    start: Sequence = _FIRST
    chain: list[StoredSegment] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    """Where each segment of the chain begins to count: after the end of the one before it."""
    end: Sequence = _FIRST
    behind_gap: list[StoredSegment] = field(default_factory=list)
    """Segments that do not connect: something before them is missing."""

    def cut(self, begin: int, end: int) -> list[StoredRange]:
        """Return the segments that hold ``[begin, end)``, which lies within the run."""
        low, high = bisect_right(self.starts, begin) - 1, bisect_left(self.starts, end)
        pieces = []
        for place in range(low, high):
            stop = self.starts[place + 1] if place + 1 < high else end
            pieces.append(StoredRange(max(begin, self.starts[place]), stop, self.chain[place]))
        return pieces


@dataclass(frozen=True)
class JournalGap:
    """Journal records ``[begin, end)`` of an epoch that are missing; ``behind`` is what is stored after them, reaching
    to ``until`` (half-open) and ``time`` (ns). None, and 0, where only the epoch's document tells of them."""

    epoch: Epoch
    begin: int
    end: int
    behind: StoredSegment | StoredLayer | None = None
    until: int = 0
    time: int = 0

    def __str__(self) -> str:
        return f"records {self.begin} to {self.end - 1} of epoch {self.epoch}"


class Timeline:
    """One machine's epochs, layers and segments, listed as they are asked for."""

    def __init__(
        self,
        store: Store,
        machine: MachineId,
        epochs: dict[Epoch, EpochRecord],
        layers: list[StoredLayer],
        open_layer: Callable[[StoredLayer], Layer],
        condemned: Set[str],
        damaged: dict[Epoch, Damaged] | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self.machine = machine
        self.whole = whole
        """Whether nothing of it may be left out."""
        self.damaged = damaged or {}
        """Epochs whose document cannot be read or is lost; their states cannot be opened, all others can."""
        self._condemned = condemned
        self.epochs = epochs
        self._store = store
        self._open_layer = open_layer
        self._layers: dict[Epoch, list[StoredLayer]] = {}
        for stored in layers:
            self._layers.setdefault(stored.layer.epoch, []).append(stored)
        self._runs: dict[tuple[Epoch, Role, int, int | None], SegmentRun] = {}
        self._spines: dict[Epoch, tuple[list[StoredRange], SegmentRun]] = {}
        self._marked: dict[Epoch, list[Sequence]] = {}
        self._pinned: frozenset[Position] | None = None

    @property
    def pinned(self) -> frozenset[Position]:
        """The states that somebody pinned, as the vault listed them when this was first asked."""
        # No cached_property: until Python 3.12 one lock of all timelines would be held while the store is asked.
        if self._pinned is None:
            names = (item.name for item in self._store.list(vault_names.pins_folder(self.machine)))
            self._pinned = frozenset(at for name in names if (at := vault_names.pinned_position(name)) is not None)
        return self._pinned

    def layers(self, epoch: Epoch) -> list[StoredLayer]:
        """Return every layer of an epoch."""
        return self._layers.get(epoch, [])

    def data_layers(self, epoch: Epoch) -> list[StoredLayer]:
        """Return the merged layers of an epoch."""
        return [one for one in self.layers(epoch) if one.layer.tier == DATA_TIER]

    def run(self, epoch: Epoch, role: Role, start: int = 1, stop: int | None = None) -> SegmentRun:
        """Return the connected segments from ``start`` on, to the end or at least to ``stop``; empty if there are
        none."""
        for limit in (None, stop):
            if (epoch, role, start, limit) in self._runs:
                return self._runs[epoch, role, start, limit]
        folder = vault_names.segments_folder(self.machine, epoch, role)
        after = vault_names.segments_before(self.machine, epoch, role, start) if start > 1 else ""
        group = []
        for item in self._store.list(folder, after=after):
            name = SegmentName.parse(item.name)
            if name is not None and stop is not None and name.first >= stop:
                break
            if name is not None and name.end > start and item.name not in self._condemned:
                group.append(StoredSegment(name, item))
        found = self._runs[epoch, role, start, stop] = _connect(group, Sequence(start))
        return found

    def behind(self, epoch: Epoch, start: int) -> SegmentRun:
        """Return the connected segments of the journal from ``start`` on, where a segment that reaches further but
        begins before ``start`` may be left out: enough for upkeep, and listed from there on instead of from where such
        a one could begin, which may be days before."""
        folder = vault_names.segments_folder(self.machine, epoch, Role.JOURNAL)
        after = vault_names.segments_from(self.machine, epoch, Role.JOURNAL, start)
        group = []
        for item in self._store.list(folder, after=after):
            name = SegmentName.parse(item.name)
            if name is not None and item.name not in self._condemned:
                group.append(StoredSegment(name, item))
        found = _connect(group, Sequence(start))
        if found.behind_gap or not group:
            return self.run(epoch, Role.JOURNAL, start)
        return found

    def last(self, epoch: Epoch) -> Sequence:
        """Return the last journal sequence of an epoch that is stored without a gap."""
        return Sequence(self._spine(epoch)[1].end - 1)

    def newest(self, epoch: Epoch) -> tuple[Sequence, int] | None:
        """Return the last journal sequence of an epoch and its time (ns), or None if it has no journal."""
        pieces, run = self._spine(epoch)
        if run.chain:
            return Sequence(run.end - 1), run.chain[-1].segment.last_time
        if not pieces:
            return None
        last = pieces[-1].stored
        time = last.layer.last_time if isinstance(last, StoredLayer) else last.segment.last_time
        return Sequence(pieces[-1].end - 1), time

    def segments(self, epoch: Epoch) -> Iterator[StoredSegment]:
        """Yield every stored segment of an epoch's journal, whatever layers stand for it."""
        for item in self._store.list(vault_names.segments_folder(self.machine, epoch, Role.JOURNAL)):
            name = SegmentName.parse(item.name)
            if name is not None:
                yield StoredSegment(name, item)

    def gap(self, epoch: Epoch) -> JournalGap | None:
        """Return the first journal records of an epoch that are missing though later ones are stored, or though its
        document was stored after them, or None if there is no such hole."""
        run = self._spine(epoch)[1]
        behind: list[tuple[int, int, int, StoredSegment | StoredLayer]] = [
            (one.segment.first, one.segment.end, one.segment.last_time, one) for one in run.behind_gap
        ]
        behind += [
            (one.layer.first, one.layer.end, one.layer.last_time, one)
            for one in self.layers(epoch)
            if one.layer.first > run.end
        ]
        if behind:
            first, _, _, stored = min(behind, key=lambda one: one[0])
            return JournalGap(
                epoch, run.end, first, stored, max(one[1] for one in behind), max(one[2] for one in behind)
            )
        record = self.epochs.get(epoch)
        if record is not None and run.end <= record.consistent_from:
            return JournalGap(epoch, run.end, record.consistent_from + 1, until=record.consistent_from + 1)
        return None

    def gaps(self) -> list[JournalGap]:
        """Return the gaps of all epochs, the oldest first."""
        return [gap for epoch in sorted(self.epochs) if (gap := self.gap(epoch)) is not None]

    def chain(self, epoch: Epoch) -> list[EpochRecord]:
        """Return the epochs that an epoch's states rest on, itself first. Raises NotFound if it has no document,
        Damaged if one of the others has none."""
        chain = [self.record(epoch)]
        while (parent := chain[-1].parent) is not None:
            child = chain[-1].epoch
            if parent.epoch >= child:
                raise Damaged(f"Epoch {child} has a parent that is not older.", remedy="Resync the machine.")
            try:
                chain.append(self.record(parent.epoch))
            except NotFound as cause:
                raise Damaged(
                    f"Epoch {child} builds on epoch {parent.epoch}, whose document is missing from the vault.",
                    remedy="Choose a point of an older epoch; a resync of the machine makes new ones.",
                ) from cause
        return chain

    def record(self, epoch: Epoch) -> EpochRecord:
        """Return the epoch's document. Raises NotFound, Damaged."""
        try:
            return self.epochs[epoch]
        except KeyError:
            if epoch in self.damaged:
                raise Damaged(
                    f"The document of epoch {epoch} of machine {self.machine} is damaged or lost; none of its states "
                    "can be opened.",
                    remedy="Choose a point of another epoch; a resync of the machine makes new ones.",
                ) from self.damaged[epoch]
            raise NotFound(
                f"Epoch {epoch} of machine {self.machine} has no complete base in this vault.",
                remedy="Choose one of the points that `farshore vault points` lists.",
            ) from None

    def ends(self, epoch: Epoch) -> Iterator[tuple[Sequence, int]]:
        """Yield every listed end of a state, oldest first: the sequence and the time (ns) of its last record."""
        pieces, run = self._spine(epoch)
        seen = 0
        for piece in pieces:
            if isinstance(piece.stored, StoredSegment):
                # Where a layer takes over inside a segment, the segment's end is not a state of its own.
                if piece.end == piece.stored.segment.end:
                    yield Sequence(piece.end - 1), piece.stored.segment.last_time
            elif piece.stored.layer.tier == DATA_TIER:
                yield Sequence(piece.end - 1), piece.stored.layer.last_time
            else:
                sources = self._open_layer(piece.stored).sources
                for end, time in zip(sources["end"].tolist(), sources["last_time"].tolist(), strict=True):
                    if seen < end <= piece.end:
                        seen = end
                        yield Sequence(end - 1), time
            seen = max(seen, piece.end)
        for stored in run.chain:
            yield Sequence(stored.segment.end - 1), stored.segment.last_time

    def cover(self, epoch: Epoch, last: Sequence) -> list[StoredRange]:
        """Return layers and segments that hold the journal sequences 1 … ``last``, oldest first.

        Raises Damaged where one is missing, NotFound where the state inside a layer is gone.
        """
        found = self._cover(epoch, 1, last + 1)
        if found is not None:
            return found
        if any(f"/{epoch:08x}" in name for name in self._condemned):
            raise NotFound(
                f"Retention has merged position {epoch}:{last} of machine {self.machine}.",
                remedy="Choose one of the points that `farshore vault points` lists.",
            )
        for stored in self.layers(epoch):
            if stored.layer.tier == DATA_TIER and stored.layer.first <= last < stored.layer.end - 1:
                raise NotFound(
                    f"The states of epoch {epoch} between {stored.layer.first} and {stored.layer.end - 1} have been "
                    "merged by retention.",
                    remedy="Choose one of the points that `farshore vault points` lists.",
                )
        raise Damaged(
            f"Machine {self.machine}: journal records up to {last} of epoch {epoch} are incomplete; this "
            "point and the later ones of this epoch cannot be opened.",
            remedy="Choose an older point; a resync of the machine makes new ones.",
        )

    def around(self, epoch: Epoch, sequence: Sequence, role: Role = Role.JOURNAL) -> StoredSegment | None:
        """Return the segment that holds a journal record; None where retention has merged it, or is about to delete
        it."""
        folder = vault_names.segments_folder(self.machine, epoch, role)
        after = vault_names.segments_before(self.machine, epoch, role, sequence)
        for item in self._store.list(folder, after=after):
            name = SegmentName.parse(item.name)
            if name is not None and name.first <= sequence < name.end and item.name not in self._condemned:
                return StoredSegment(name, item)
            if name is not None and name.first > sequence:
                break
        return None

    def between(self, epoch: Epoch, begin: int, end: int) -> list[StoredRange]:
        """Return layers and segments that hold the journal records ``[begin, end)``. Raises Damaged if one is
        missing."""
        found = self._cover(epoch, begin, end)
        if found is None:
            raise Damaged(
                f"Machine {self.machine}: journal records {begin} to {end - 1} of epoch {epoch} are incomplete.",
                remedy="Run `farshore vault verify`; a resync of the machine makes new points.",
            )
        return found

    def marked(self, epoch: Epoch) -> list[Sequence]:
        """Return where stored points lie in an epoch, oldest first; one where two lie is there twice."""
        if epoch not in self._marked:
            folder = vault_names.points_folder(self.machine)
            after = vault_names.points_before(self.machine, epoch)
            found = []
            for item in self._store.list(folder, after=after):
                position = vault_names.point_position(item.name)
                if position is None or position.epoch != epoch:
                    break
                if item.name not in self._condemned:
                    found.append(position.sequence)
            self._marked[epoch] = found
        return self._marked[epoch]

    def overlay(self, epoch: Epoch, end: Sequence) -> list[StoredRange]:
        """Return the segments of the base overlay, sequences 1 … ``end`` - 1. Raises Damaged if one is missing."""
        if end <= 1:
            return []
        run = self.run(epoch, Role.BASE)
        if run.end < end:
            raise Damaged(
                f"Machine {self.machine}: base records {run.end} to {end - 1} of epoch {epoch} are missing; no point "
                "of this epoch can be opened.",
                remedy="Choose a point of an older epoch; a resync of the machine makes new ones.",
            )
        return run.cut(1, end)

    def _spine(self, epoch: Epoch) -> tuple[list[StoredRange], SegmentRun]:
        """What reaches furthest from 1 on, layers where there are any, and the segments behind the last layer."""
        found = self._spines.get(epoch)
        if found is None:
            pieces: list[StoredRange] = []
            reach = 1
            while True:
                step = self._next_layer(epoch, reach)
                if step is None:
                    break
                pieces.extend(step)
                reach = step[-1].end
            found = self._spines[epoch] = (pieces, self.run(epoch, Role.JOURNAL, reach))
        return found

    def _next_layer(self, epoch: Epoch, begin: int) -> list[StoredRange] | None:
        """The longest layer that begins at ``begin``, else the segments up to the next layer; None where neither is."""
        following = [one for one in self.layers(epoch) if one.layer.first >= begin]
        here = [one for one in following if one.layer.first == begin]
        if here:
            longest = max(here, key=lambda one: one.layer.end)
            return [StoredRange(begin, longest.layer.end, longest)]
        if not following:
            return None
        stop = min(one.layer.first for one in following)
        run = self.run(epoch, Role.JOURNAL, begin, stop)
        return run.cut(begin, stop) if run.end >= stop else None

    def _cover(self, epoch: Epoch, begin: int, end: int) -> list[StoredRange] | None:
        """Pieces for ``[begin, end)``: a search that takes the longest step first and can go back."""
        dead: set[int] = set()
        chosen: list[list[StoredRange]] = []
        trail = [(begin, self._steps(epoch, begin, end))]
        while trail:
            place, steps = trail[-1]
            if place == end:
                return [piece for step in chosen for piece in step]
            step = next(steps, None)
            if step is None:
                dead.add(place)
                trail.pop()
                if chosen:
                    chosen.pop()
            elif step[-1].end not in dead:
                chosen.append(step)
                trail.append((step[-1].end, self._steps(epoch, step[-1].end, end)))
        return None

    def _steps(self, epoch: Epoch, begin: int, end: int) -> Iterator[list[StoredRange]]:
        """Ways on from ``begin``: layers, the longest first; else segments up to where a layer begins, or the end."""
        fitting = [one for one in self.layers(epoch) if one.layer.first >= begin and one.layer.end <= end]
        for one in sorted(fitting, key=lambda one: -one.layer.end):
            if one.layer.first == begin:
                yield [StoredRange(begin, one.layer.end, one)]
        stop = min((one.layer.first for one in fitting if one.layer.first > begin), default=end)
        for reach in sorted({stop, end}):
            run = self.run(epoch, Role.JOURNAL, begin, reach)
            if run.end >= reach:
                yield run.cut(begin, reach)


def load_timeline(
    store: Store,
    key: SealingKey,
    machine: MachineId,
    open_layer: Callable[[StoredLayer], Layer],
    condemned: Set[str],
    copied_since: Callable[[], float],
    *,
    whole: bool = False,
) -> Timeline:
    """List layers and read the epochs' documents, as if the objects named by ``condemned`` were gone already.

    A document that does not open leaves out its epoch, unless the ``whole`` timeline is needed: then it raises Damaged.
    A lost one leaves out its epoch too: that it was there is told by a layer, or by the description that is stored
    just before it, unless that is younger than a copy of the machine that is under way, or was when its process died:
    ``copied_since`` tells when it began (ns), something later than all there is where there is none. Raises the
    store's errors, WrongKey."""
    layers: list[StoredLayer] = []
    for item in store.list(vault_names.layers_folder(machine)):
        name = LayerName.parse(item.name)
        if name is not None and item.name not in condemned:
            layers.append(StoredLayer(name, item))
    # In this order: whoever completes an epoch meanwhile stores its description first.
    complete = _described(store, machine, condemned) | {stored.layer.epoch: 0 for stored in layers}
    listed = _documents(store, machine, "epochs")
    rebased = _documents(store, machine, "rebased")
    names = [name for name in (*listed, *rebased) if name not in condemned]
    with ReaderThreads(_READERS) as readers:
        found = list(readers.map(lambda name: _epoch(store, key, name), names))
    damaged: dict[Epoch, Damaged] = {}
    lacking = complete.keys() - {_number(name) for name in listed}
    if lacking:
        copying = copied_since()
        if isinstance(store, ListedOnce):
            store.forget()  # what was stored since the listing is asked for here
        late = {_number(name) for name in _documents(store, machine, "epochs")}
        damaged = {epoch: _lost(machine, epoch) for epoch in lacking - late if complete[epoch] < copying}
    epochs: dict[Epoch, EpochRecord] = {}
    for document, one in zip(names, found, strict=True):  # the rebased ones last: they count where they open
        if isinstance(one, EpochRecord):
            epochs[one.epoch] = one
            damaged.pop(one.epoch, None)
        elif whole:
            raise one
        elif document in listed:
            damaged[_number(document)] = one
    return Timeline(store, machine, epochs, layers, open_layer, condemned, damaged, whole=whole)


def _documents(store: Store, machine: MachineId, kind: str) -> list[str]:
    return [item.name for item in store.list(f"{vault_names.machine_folder(machine)}{kind}/")]


def _described(store: Store, machine: MachineId, condemned: Set[str]) -> dict[Epoch, int]:
    """The epochs whose base was complete, by their descriptions, and when these were stored (ns). Older numbers are
    times and stand for no epoch."""
    folder = f"{vault_names.machine_folder(machine)}descriptions/"
    found = {_number(item.name): item.modified for item in store.list(folder) if item.name not in condemned}
    return {number: stored for number, stored in found.items() if 0 < number < 1 << 32}


def _number(name: str) -> Epoch:
    return Epoch(int(name.rpartition("/")[2], 16))


def _lost(machine: MachineId, epoch: Epoch) -> Damaged:
    return Damaged(
        f"The document of epoch {epoch} of machine {machine} is missing; none of its states can be opened.",
        remedy="Restore it from a copy of the vault, or resync the machine, which makes new points.",
    )


def _epoch(store: Store, key: SealingKey, name: str) -> EpochRecord | Damaged:
    try:
        return EpochRecord.from_fields(read_document(store, key, name), name)
    except Damaged as error:
        return error


def _connect(group: list[StoredSegment], start: Sequence) -> SegmentRun:
    """The chain from ``start`` on; of segments that begin alike or inside each other, the longer reach wins."""
    run = SegmentRun(start=start, end=start)
    for stored in sorted(group, key=lambda one: (one.segment.first, -one.segment.end)):
        if stored.segment.first > run.end:
            run.behind_gap.append(stored)
        elif stored.segment.end > run.end and not run.behind_gap:
            run.chain.append(stored)
            run.starts.append(run.end)
            run.end = stored.segment.end
    return run
