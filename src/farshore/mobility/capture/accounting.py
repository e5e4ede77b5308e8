"""Does the kernel's own count of written bytes agree with what the capture program saw, and what the program put into
the ring with what was read from it? Pure.

The kernel counts a request when it completes; the program counts a write when it is submitted and again when it has
completed. With ``base`` the kernel's count before the first write that the program saw, at any instant

    completed  ≤  kernel's count − base  ≤  submitted − refused

so each sample narrows the interval in which ``base`` can lie, whether the disk is ever idle or not. A write that the
program did not see lifts the lower end; once it passes the upper end the difference is a gap, and its size is known.
An idle instant closes the interval to a single value: from then on a gap of one sector shows.

While the kernel does not count, there is nothing to compare with: the disk is *blind* for as long as that lasts, quiet
or not, and the accounts begin anew with the first sample after it. They cannot report a gap for what went uncounted, as
``base`` is taken afresh, and they do not vouch for it either: whoever is told of the blindness has to decide.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Optional, Tuple

from farshore.mobility.capture.kernel import DiskStat

SAMPLE_AGE = 0.05


class State(enum.Enum):
    """What an account says, worst last."""

    OK = "ok"
    UNSETTLED = "unsettled"
    """Nothing is wrong as far as can be seen, but writes were in flight in each sample so far."""
    BLIND = "blind"
    """The kernel's statistics are off (queue/iostats), or it counted less than the program saw, so they were off for
    a moment: a gap would not show."""
    GAP = "gap"
    """The disk was written to and the program did not see it."""


@dataclass(frozen=True)
class Counters:
    """A disk's counts since it was added; bytes but for ``bios``, ``flushes`` and ``commands``."""

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
    """Bytes of the records put into the ring, those of writes that then did not fit included."""
    commands: int = 0
    """Sent straight to the driver, past everything that counts bytes, that may have changed the disk anywhere."""

    @property
    def unplaced(self) -> int:
        """Bytes seen that are nowhere, neither kept nor excluded: 0 but for writes being handled now."""
        return self.written + self.discarded - self.captured - self.mapped - self.excluded


@dataclass(frozen=True)
class Sample:
    """One look at a disk: the program's counts, some time later the kernel's, at once the program's again.

    The kernel counts a request just after the program has seen it complete, maybe preempted in between: ``before``
    must be older than ``kernel`` by SAMPLE_AGE seconds at least, so that all that it holds as done is in ``kernel``.
    """

    before: Counters
    kernel: DiskStat
    after: Counters
    idle: bool = False
    """The kernel reports no write in flight. With no write submitted between the looks, all have completed, also
    those whose completion the program did not see."""
    counted: bool = True
    """The kernel's statistics of the disk were on, just before ``kernel`` was read."""


@dataclass(frozen=True)
class Interval:
    """Where the kernel's count must have stood when the program began to see; ``high`` None: no bound known yet."""

    low: int = 0
    high: Optional[int] = None

    @property
    def width(self) -> Optional[int]:
        """0: the accounts are exact."""
        return None if self.high is None else self.high - self.low


@dataclass(frozen=True)
class Ledger:
    """What the samples of one disk have shown so far."""

    written: Interval = Interval()
    discarded: Interval = Interval()


@dataclass(frozen=True)
class Verdict:
    """``gap``: bytes written or discarded behind the program's back, at least."""

    state: State
    gap: int = 0


def narrow(ledger: Ledger, sample: Sample) -> Tuple[Ledger, Verdict]:
    """Return the ledger with one sample more, and what it now says. After a gap or blindness the ledger starts anew."""
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
        # What is not counted only makes the kernel's count smaller, so a gap that shows all the same is one.
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
    if something was left. The program counts a record after it is in the ring, so a shortfall is no passing matter.
    """
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
