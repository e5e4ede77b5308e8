"""Make segments and points of the vault from the spool's frames. A first run and a run after a crash use the same path.

Order of durable effects, each safe to repeat: the segment, then the documents of the points in it; only then does the
caller release the frames. After a crash between any two, the frames are in the spool and it is done again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Sequence

import numpy as np

from farshore.formats.batch import Role
from farshore.formats.point_payload import decode_point
from farshore.formats.record import RecordKind, payload_offsets
from farshore.formats.spool import FrameFlag
from farshore.model.errors import FarshoreError, Malformed
from farshore.model.identifiers import Sequence as RecordSequence
from farshore.model.point import RecoveryPoint
from farshore.model.position import Position
from farshore.process_server.spool.file import FrameReference
from farshore.process_server.streams.silence import Silence, extended
from farshore.process_server.streams.stream import Stream
from farshore.vault.machine import MachineVault
from farshore.vault.objects.segments import SealedBatch, SegmentBuilder, SegmentObject


@dataclass(frozen=True)
class Stored:
    """One segment that is in the vault. ``last_time`` is ns since 1970 UTC; ``end`` the sequence after the last."""

    frames: tuple[FrameReference, ...]
    end: int
    last_time: int
    points: tuple[RecoveryPoint, ...]


def store_frames(stream: Stream, frames: Sequence[FrameReference]) -> Iterator[Stored]:
    """Store neighbouring frames of one lane, segment by segment. Raises the vault's errors between two of them.

    Frames that were sealed under different salts (a restart, a failed spool write) become separate segments."""
    for builder, group in _groups(stream, frames):
        yield _store_segment(stream, builder, group)


_Group = list[tuple[FrameReference, SealedBatch]]


def _groups(stream: Stream, frames: Sequence[FrameReference]) -> Iterator[tuple[SegmentBuilder, _Group]]:
    group: _Group = []
    builder: SegmentBuilder | None = None
    for frame in frames:
        sealed = SealedBatch.from_buffer(frame.body(), stream.vault.key)
        if builder is not None and not builder.accepts(sealed):
            yield builder, group
            group, builder = [], None
        if builder is None:
            builder = SegmentBuilder.from_sealed(stream.vault.key, [sealed])
        else:
            builder.add(sealed)
        group.append((frame, sealed))
    if builder is not None:
        yield builder, group


def _store_segment(stream: Stream, builder: SegmentBuilder, group: _Group) -> Stored:
    batches = [sealed for _, sealed in group]
    stream.silence = extended(stream.silence, batches)
    segment = builder.build() if stream.silence is None else silent_segment(stream.vault, stream.silence)
    stream.vault.writing.put_segment(segment)
    points = [point for frame, sealed in group for point in _put_points(stream, frame, sealed)]
    return Stored(tuple(frame for frame, _ in group), segment.segment.end, segment.segment.last_time, tuple(points))


def silent_segment(machine: MachineVault, silence: Silence) -> SegmentObject:
    """Return one segment with all marks of a stretch."""
    builder = SegmentBuilder(machine.key, machine.id, silence.epoch, Role.JOURNAL)
    builder.add(builder.seal(silence.batch()))
    return builder.build()


def store_points(stream: Stream, frame: FrameReference) -> None:
    """Store the points of a frame whose segment was stored before a crash, as its points may be missing."""
    _put_points(stream, frame, None)


def unexpected(error: Exception) -> FarshoreError:
    """Return one of our errors for an unexpected exception: it stops one lane, and not the process."""
    return FarshoreError(
        f"Storing failed unexpectedly ({type(error).__name__}: {error}).",
        remedy="Report this with the process server's log.",
    )


def _put_points(stream: Stream, frame: FrameReference, sealed: SealedBatch | None) -> list[RecoveryPoint]:
    if FrameFlag.POINTS not in frame.header.flags or frame.header.role is not Role.JOURNAL:
        return []
    points = list(_points(stream, sealed or SealedBatch.from_buffer(frame.body(), stream.vault.key)))
    for point in points:
        stream.vault.writing.put_point(point)
    return points


def _points(stream: Stream, sealed: SealedBatch) -> Iterator[RecoveryPoint]:
    offsets = payload_offsets(sealed.records)
    payload = memoryview(sealed.payload(stream.vault.key))
    for number in np.flatnonzero(sealed.records["kind"] == RecordKind.POINT):
        sequence = sealed.first_sequence + int(number)
        try:
            told = decode_point(payload[int(offsets[number]) : int(offsets[number + 1])])
        except Malformed as error:
            # An older release acknowledged it. Its record remains in the segment, and the writes around it are valid.
            stream.note_trouble(f"The point at {stream.epoch}:{sequence} is omitted. {error.message}")
            continue
        time = sealed.header.base_time + 1000 * int(sealed.records["time_us"][number])
        position = Position(stream.epoch, RecordSequence(sequence))
        yield RecoveryPoint(told.id, stream.machine, position, time, told.kind, told.name)
