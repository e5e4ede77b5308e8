"""Protecting an image in a vault as agent and process server do together, in one process and without a wire."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from blake3 import blake3

from farshore.formats.batch import Batch, Role
from farshore.formats.chunk_exchange import CHUNK_ROW, Chunks, Comparison, Verdict
from farshore.formats.record import RECORD, RecordKind
from farshore.model.identifiers import BLOCK, CHUNK, DiskNumber, Epoch, Sequence
from farshore.vault.machine import MachineVault
from farshore.vault.objects.base_copy import BaseCopy
from farshore.vault.objects.epochs import EpochRecord
from farshore.vault.objects.segments import SegmentBuilder
from farshore.vault.vault import Vault

DISK = DiskNumber(0)
EPOCH = Epoch(1)
_STEP_CHUNKS = 64
_RECORDS = 2048


def copy_base(vault: Vault, machine: MachineVault, image: Path, workers: int = 2) -> int:
    """The base of epoch 1 from an image; answer how many chunks were stored anew."""
    size = image.stat().st_size
    copy = machine.bases.begin_copy(EPOCH, [(DISK, size)], None)
    with ThreadPoolExecutor(workers) as pool:
        firsts = range(0, -(-size // CHUNK), _STEP_CHUNKS)
        sent = sum(pool.map(lambda first: _copy_step(vault, copy, image, first), firsts))
    disks = copy.finish()
    machine.writing.put_epoch(EpochRecord(EPOCH, "initial", None, Sequence(0), time.time_ns(), Sequence(1), disks))
    copy.close()
    return sent


def _copy_step(vault: Vault, copy: BaseCopy, image: Path, first: int) -> int:
    with image.open("rb") as file:
        file.seek(first * CHUNK)
        data = memoryview(file.read(_STEP_CHUNKS * CHUNK))
    chunks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    digests = [
        blake3(chunk, key=vault.chunk_hash_key).digest() if np.frombuffer(chunk, np.uint8).any() else bytes(32)
        for chunk in chunks
    ]
    hashes = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    send = np.flatnonzero(copy.compare(Comparison(DISK, first, hashes)) == Verdict.SEND).tolist()
    rows = np.zeros(len(send), CHUNK_ROW)
    for place, chunk in enumerate(send):
        rows[place] = (first + chunk, len(chunks[chunk]), 0, digests[chunk])
    if send:
        copy.put(Chunks(DISK, rows, b"".join(chunks[chunk] for chunk in send)))
    return len(send)


def write_blocks(machine: MachineVault, blocks: np.ndarray, payload: bytes, first: int) -> None:
    """Journal 4 KiB writes from sequence ``first`` on, in segments of 8 MiB; durable when it returns."""
    for start in range(0, len(blocks), _RECORDS):
        some = blocks[start : start + _RECORDS]
        rows = np.zeros(len(some), RECORD)
        rows["sector"], rows["sectors"] = some.astype(np.uint64) * np.uint64(BLOCK // 512), BLOCK // 512
        rows["kind"], rows["time_us"] = RecordKind.WRITE, np.arange(len(some))
        builder = SegmentBuilder(machine.key, machine.id, EPOCH, Role.JOURNAL)
        part = memoryview(payload)[start * BLOCK : (start + len(some)) * BLOCK]
        sequence = Sequence(first + start)
        batch = Batch(machine.id, EPOCH, Role.JOURNAL, sequence, time.time_ns(), rows, part)
        builder.add(builder.seal(batch))
        machine.writing.put_segment(builder.build())
