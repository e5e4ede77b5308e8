"""Compare the kernel's own count of written bytes with the capture program's, and the bytes put into the ring with
those read from it. Pure.

The kernel counts a request when it completes; the program counts a write when it is submitted and again when it has
completed. Let ``base`` be the kernel's count before the first write that the program saw. Then at any moment

    completed  ≤  kernel's count − base  ≤  submitted − refused

so each sample narrows the interval of possible values of ``base``, whether the disk is ever idle or not. A write that
the program did not see raises the lower end; once that exceeds the upper end there is a gap of known size. An idle
moment reduces the interval to one value: from then on a gap of a single sector is noticed.

While the kernel does not count, there is nothing to compare: the disk is *blind* for that time, whether it is written
or not, and the accounts start again with the first sample afterwards. They cannot report a gap for uncounted writes,
because ``base`` is new, and they do not guarantee that there was none: the caller decides what to do about the
blindness.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Optional, Tuple

from farshore.mobility.capture.kernel import DiskStat

SAMPLE_AGE = 0.05


class State(enum.Enum):
    """The result of an account, worst last."""

    OK = "ok"
    UNSETTLED = "unsettled"
    """No fault is visible, but writes were in flight in each sample so far."""
    BLIND = "blind"
    """The kernel's statistics are off (queue/iostats), or it counted less than the program saw, so they were off for a
    moment: a gap would not be noticed."""
    GAP = "gap"
    """The disk was written, and the program did not see it."""


@dataclass(frozen=True)
class Counters:
    """A disk's counts since it was added; bytes except for ``bios``, ``flushes`` and ``commands``."""

    bios: int = 0
    written: int = 0
    discarded: int = 0
    captured: int = 0
    mapped: int = 0
    excluded: int = 0
    flushes: int = 0
    written_done: int = 0
    discarded_done: int = 0
    written_refused: int = 0
    discarded_refused: int = 0
    failed: int = 0
    recorded: int = 0
    """Bytes of the records put into the ring, including those of writes that then did not fit."""
    commands: int = 0
    """Sent straight to the driver, past all byte counts; they may have changed the disk anywhere."""

    @property
    def unplaced(self) -> int:
        """Bytes seen that are neither recorded nor excluded: 0 except for writes being handled now."""
        return self.written + self.discarded - self.captured - self.mapped - self.excluded


@dataclass(frozen=True)
class Sample:
    """One look at a disk: the program's counts, some time later the kernel's, and immediately the program's again.

    The kernel counts a request just after the program has seen it complete, possibly with a preemption in between. So
    ``before`` must be older than ``kernel`` by at least SAMPLE_AGE seconds: then ``kernel`` includes everything that
    ``before`` counts as completed."""

    before: Counters
    kernel: DiskStat
    after: Counters
    idle: bool = False
    """The kernel reports no write in flight. If no write was submitted between the looks, all have completed, including
    those whose completion the program did not see."""
    counted: bool = True
    """The kernel's statistics of the disk were on just before ``kernel`` was read."""


@dataclass(frozen=True)
class Interval:
    """Where the kernel's count must have been when the program began to see; ``high`` None: no upper bound known
    yet."""

    low: int = 0
    high: Optional[int] = None

    @property
    def width(self) -> Optional[int]:
        """0: the accounts are exact."""
        return None if self.high is None else self.high - self.low


@dataclass(frozen=True)
class Ledger:
    """The result of one disk's samples so far."""

    written: Interval = Interval()
    discarded: Interval = Interval()


@dataclass(frozen=True)
class Verdict:
    """``gap``: bytes written or discarded without the program's knowledge, at least."""

    state: State
    gap: int = 0


def narrow(ledger: Ledger, sample: Sample) -> Tuple[Ledger, Verdict]:
    """Return the ledger with one more sample, and its verdict. After a gap or blindness the ledger starts again."""
    kernel, before, after = sample.kernel, sample.before, sample.after
    if sample.idle and before.bios == after.bios:
        low = high = kernel.written - after.written + after.written_refused
        low_discards = high_discards = kernel.discarded - after.discarded + after.discarded_refused
    else:
        low = kernel.written - after.written + before.written_refused
        high = kernel.written - before.written_done
        low_discards = kernel.discarded - after.discarded + before.discarded_refused
        high_discards = kernel.discarded - before.discarded_done
    written, writes = _narrow(ledger.written, low, high)
    discarded, discards = _narrow(ledger.discarded, low_discards, high_discards)
    verdict = worst(writes, discards)
    if not sample.counted:
        # Uncounted writes only make the kernel's count smaller, so a gap that is visible all the same is real.
        return Ledger(), worst(verdict, Verdict(State.BLIND))
    return Ledger(written, discarded), verdict


def _narrow(interval: Interval, low: int, high: int) -> Tuple[Interval, Verdict]:
    if interval.high is not None:
        if low > interval.high:
            return Interval(low, max(low, high)), Verdict(State.GAP, low - interval.high)
        if high < interval.low:
            return Interval(min(low, high), high), Verdict(State.BLIND)
        low, high = max(low, interval.low), min(high, interval.high)
    narrowed = Interval(low, high)
    return narrowed, Verdict(State.OK if narrowed.width == 0 else State.UNSETTLED)


def compare_delivery(before: Counters, delivered: Optional[int], after: Counters, known: int) -> Verdict:
    """Check that every record that was put into the ring came out of it. ``known`` is the shortfall reported before.

    ``delivered`` are the bytes that the reader had drained, with nothing left in the ring, between the two looks; None
    if something was left. The program counts a record after it is in the ring, so a shortfall is never temporary."""
    if delivered is None or before.recorded != after.recorded:
        return Verdict(State.OK)
    missing = after.recorded - delivered - known
    return Verdict(State.GAP, missing) if missing > 0 else Verdict(State.OK)


def all_counted(ledger: Ledger, kernel: DiskStat, after: Counters) -> bool:
    """Return whether the kernel has counted as completed everything that was submitted; True if that is not known."""
    written, discarded = ledger.written, ledger.discarded
    if written.width != 0 or discarded.width != 0:
        return True
    return (
        kernel.written - written.low >= after.written - after.written_refused
        and kernel.discarded - discarded.low >= after.discarded - after.discarded_refused
    )


def worst(*verdicts: Verdict) -> Verdict:
    """Return the worst of them, with all gaps added up."""
    order = list(State)
    state = max((one.state for one in verdicts), key=order.index, default=State.OK)
    return Verdict(state, sum(one.gap for one in verdicts))
