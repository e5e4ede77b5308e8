"""Create recovery points: at once, with the file systems frozen, or with the applications quiesced as well."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Callable, FrozenSet, Iterator, Protocol, Sequence, Union

from farshore.formats.point_payload import PointPayload
from farshore.mobility.capture.disks import mounted_once
from farshore.mobility.copying.protected_disks import ProtectedDisk
from farshore.mobility.points.freezing import FREEZE_SECONDS, Freeze, order_of_freezing
from farshore.mobility.points.hooks import FOLDER, Quiesced
from farshore.mobility.rounds.round_run import RoundRun
from farshore.mobility.stream.pump import Milestone
from farshore.model.errors import Unsupported
from farshore.model.point import PointKind

_SECONDS = 60.0
_ROUND_SECONDS = 150.0
_LOOK_SECONDS = 0.1


class Stream(Protocol):
    """What puts points into the stream: an epoch run."""

    def cut(self, point: PointPayload, still: Callable[[], bool]) -> Milestone:
        """Put a recovery point into the stream at this moment, if ``still`` holds after it."""
        ...


def take_point(
    point: PointPayload,
    stream: Union[Stream, RoundRun],
    disks: Sequence[ProtectedDisk],
    *,
    hooks: Path = FOLDER,
    hold: float = 0.0,
) -> Milestone:
    """Create a point of the requested kind and return its place in the stream. Raises TryLater; nothing remains frozen.

    Without data mode a round is made for it, which freezes by itself. ``hold``: the machine remains frozen for this
    many seconds, counted from before the point, so a caller that stops it meanwhile loses nothing. Only with data mode,
    and not for a crash-consistent point."""
    if isinstance(stream, RoundRun):
        if hold:
            raise Unsupported("Without data mode this machine cannot be frozen.", remedy="Shut it down instead.")
        milestone = stream.ask(point)
        milestone.wait(_ROUND_SECONDS)
        return milestone
    devices = frozenset(one.disk.device for one in disks)
    with _applications_quiet(point.kind, hooks):
        if point.kind is PointKind.CRASH_CONSISTENT:
            milestone = stream.cut(point, lambda: True)
        else:
            milestone = _cut_frozen(point, stream, devices, hold)
    milestone.wait(_SECONDS)
    return milestone


def _cut_frozen(point: PointPayload, stream: Stream, devices: FrozenSet[str], hold: float) -> Milestone:
    with Freeze(order_of_freezing(mounted_once(), devices), hold or FREEZE_SECONDS) as freeze:
        milestone = stream.cut(point, freeze.holds)
        if not hold:
            freeze.thaw()
        while hold and freeze.holds():  # the sender continues meanwhile; the caller sees the point in the vault
            time.sleep(_LOOK_SECONDS)
    return milestone


@contextlib.contextmanager
def _applications_quiet(kind: PointKind, hooks: Path) -> Iterator[None]:
    if kind is not PointKind.APP_CONSISTENT:
        yield
        return
    with Quiesced(hooks):
        yield
