"""Disjoint, sorted runs of chunks of one disk, each with a value, for example when it was proven, or why it is in
doubt."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Callable, Generic, Iterator, List, NamedTuple, Optional, Sequence, Tuple, TypeVar

Value = TypeVar("Value")


class Span(NamedTuple, Generic[Value]):
    """Chunks [first, end)."""

    first: int
    end: int
    value: Value


class Spans(Generic[Value]):
    """``joined`` returns the value of two neighbours that may be joined, or None. Memory is limited whatever the disk's
    size: beyond ``most`` spans, the shortest are dropped; with ``outwards``, the spans nearest to each other are joined
    instead, including the gap between them, so that nothing is lost. Used by one thread."""

    def __init__(
        self, joined: Callable[[Value, Value], Optional[Value]], most: int = 20_000, *, outwards: bool = False
    ) -> None:
        self._joined = joined
        self._most = most
        self._outwards = outwards
        self._firsts: List[int] = []
        self._ends: List[int] = []
        self._values: List[Value] = []

    def __len__(self) -> int:
        return len(self._firsts)

    def __iter__(self) -> Iterator[Span[Value]]:
        return (Span(*one) for one in zip(self._firsts, self._ends, self._values))

    @property
    def chunks(self) -> int:
        """The number of chunks in all spans."""
        return sum(self._ends) - sum(self._firsts)

    def put(self, first: int, end: int, value: Value) -> None:
        """Set the value of [first, end), replacing earlier values."""
        if first >= end:
            return
        self._cut(first, end)
        at = bisect_left(self._firsts, first)
        if at < len(self._firsts) and self._firsts[at] == end:
            both = self._joined(value, self._values[at])
            if both is not None:
                end, value = self._ends[at], both
                self._remove(at, at + 1)
        if at and self._ends[at - 1] == first:
            both = self._joined(self._values[at - 1], value)
            if both is not None:
                first, value = self._firsts[at - 1], both
                self._remove(at - 1, at)
                at -= 1
        self._firsts.insert(at, first)
        self._ends.insert(at, end)
        self._values.insert(at, value)
        self._bound()

    def cut(self, first: int, end: int) -> None:
        """Remove the values of [first, end). With ``outwards`` and more than ``most`` spans, parts of it may get a
        value again."""
        self._cut(first, end)
        self._bound()

    def _cut(self, first: int, end: int) -> None:
        low, high = self._touching(first, end)
        if low == high:
            return
        left = (self._firsts[low], first, self._values[low])
        right = (end, self._ends[high - 1], self._values[high - 1])
        self._remove(low, high)
        for piece in (right, left):
            if piece[0] < piece[1]:
                self._firsts.insert(low, piece[0])
                self._ends.insert(low, piece[1])
                self._values.insert(low, piece[2])

    def within(self, first: int, end: int) -> List[Span[Value]]:
        """Return the spans that touch [first, end), cut to it."""
        low, high = self._touching(first, end)
        return [
            Span(max(first, self._firsts[at]), min(end, self._ends[at]), self._values[at]) for at in range(low, high)
        ]

    def gaps(self, first: int, end: int) -> Iterator[Tuple[int, int]]:
        """Yield the parts of [first, end) without a value."""
        at = first
        for span in self.within(first, end):
            if span.first > at:
                yield at, span.first
            at = span.end
        if at < end:
            yield at, end

    def _touching(self, first: int, end: int) -> Tuple[int, int]:
        return bisect_right(self._ends, first), bisect_left(self._firsts, end)

    def _remove(self, low: int, high: int) -> None:
        del self._firsts[low:high], self._ends[low:high], self._values[low:high]

    def _bound(self) -> None:
        if len(self._firsts) > self._most:
            if self._outwards:
                self._join_nearest()
            else:
                self._forget_shortest()

    def _join_nearest(self) -> None:
        """Close a quarter of the gaps, the narrowest, if their sides may have one value."""
        gaps = [(self._firsts[at] - self._ends[at - 1], at) for at in range(1, len(self._firsts))]
        narrow = {at for _, at in sorted(gaps)[: max(1, len(gaps) // 4)]}
        spans = list(self)
        self._firsts, self._ends, self._values = [], [], []
        for at, span in enumerate(spans):
            both = self._joined(self._values[-1], span.value) if at in narrow else None
            if both is None:
                self._firsts.append(span.first)
                self._ends.append(span.end)
                self._values.append(span.value)
            else:
                self._ends[-1], self._values[-1] = span.end, both

    def _forget_shortest(self) -> None:
        """Drop a quarter of them."""
        lengths = [end - first for first, end in zip(self._firsts, self._ends)]
        ranked = sorted(range(len(lengths)), key=lengths.__getitem__)
        kept = sorted(ranked[len(ranked) // 4 :])
        self._firsts = [self._firsts[at] for at in kept]
        self._ends = [self._ends[at] for at in kept]
        self._values = [self._values[at] for at in kept]


def runs(chunks: Sequence[int]) -> Iterator[Tuple[int, int]]:
    """Yield (first, end) of each run of neighbours in sorted numbers."""
    first = before = None
    for chunk in chunks:
        if before is None or chunk != before + 1:
            if first is not None and before is not None:
                yield first, before + 1
            first = chunk
        before = chunk
    if first is not None and before is not None:
        yield first, before + 1
