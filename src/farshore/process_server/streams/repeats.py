"""Check whether a repeated batch equals what was accepted under its sequences.

An agent repeats a batch whose acknowledgement it did not receive, byte for byte, or after an upgrade with the same
records and other times. The accepted batch is in the spool, or already in the vault. Another sender in the machine's
name, for example a copy of it that was started, is detected here: the same sequences, different contents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from farshore.formats.batch import Batch, Buffer
from farshore.formats.record import Records, payload_offsets
from farshore.model.errors import Damaged, NotFound, Refused
from farshore.model.identifiers import Sequence as SequenceNumber
from farshore.process_server.spool.file import FrameReference
from farshore.vault.machine import MachineVault
from farshore.vault.objects.segments import SealedBatch

_COMPARED = ("sector", "sectors", "disk", "kind", "flags")


class _Piece(NamedTuple):
    first: int
    records: Records
    payload: Buffer


def is_same(vault: MachineVault, batch: Batch, frames: Sequence[FrameReference]) -> bool | None:
    """Return whether the records of ``batch`` are those under its sequences in ``frames`` (durable, not stored yet) or
    in the vault. None if they are no longer in either. Raises the store's errors."""
    at = int(batch.first_sequence)
    offsets = payload_offsets(batch.records)
    payload = memoryview(batch.payload).cast("B")
    while at < batch.end_sequence:
        piece = _in_spool(vault, at, frames) or _in_vault(vault, batch, at)
        if piece is None:
            return None
        count = min(piece.first + len(piece.records), batch.end_sequence) - at
        before, here = at - piece.first, at - batch.first_sequence
        mine, theirs = batch.records[here : here + count], piece.records[before : before + count]
        if any(not np.array_equal(mine[name], theirs[name]) for name in _COMPARED):
            return False
        begins = payload_offsets(piece.records)
        found = memoryview(piece.payload).cast("B")[int(begins[before]) : int(begins[before + count])]
        if found != payload[int(offsets[here]) : int(offsets[here + count])]:
            return False
        at += count
    return True


def _in_spool(vault: MachineVault, at: int, frames: Sequence[FrameReference]) -> _Piece | None:
    for frame in frames:
        header = frame.header
        if header.first_sequence <= at < header.end_sequence:
            try:
                sealed = SealedBatch.from_buffer(frame.body(), vault.key)
                if (sealed.header.epoch, sealed.first_sequence) == (header.epoch, header.first_sequence):
                    return _Piece(sealed.first_sequence, sealed.records, sealed.payload(vault.key))
            except (Refused, Damaged):
                pass  # it was stored a moment ago, and its place in the file was reused: the vault has it
    return None


def _in_vault(vault: MachineVault, batch: Batch, at: int) -> _Piece | None:
    try:
        found = vault.stored.records_around(batch.epoch, batch.role, SequenceNumber(at))
    except (NotFound, Damaged):
        return None
    return None if found is None else _Piece(*found)
