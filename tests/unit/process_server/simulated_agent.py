"""An agent without a machine: makes writes, sends them by the real protocol, and remembers what the disk must be."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from farshore.api_types.machines import Description, Disk
from farshore.api_types.streams import BaseCompletion
from farshore.client.data_plane import DataPlane
from farshore.formats.batch import Batch, Role
from farshore.formats.chunk_exchange import CHUNK_ROW, Comparison, Verdict
from farshore.formats.point_payload import PointPayload, encode_point
from farshore.formats.record import RECORD, RecordKind
from farshore.model.errors import Gap, TryLater
from farshore.model.identifiers import BLOCK, CHUNK, SECTOR, DiskNumber, Epoch, MachineId, Sequence
from farshore.model.machine import Firmware

SECTORS = BLOCK // SECTOR


@dataclass
class Sent:
    """A batch and what it did; kept so that any prefix of the stream can be replayed."""

    batch: Batch
    acknowledged: bool = False


class SimulatedAgent:
    """One machine with one disk of ``size`` bytes, in memory. ``compressible``: the share of zeroes in each block."""

    def __init__(
        self,
        machine: MachineId,
        plane: DataPlane,
        epoch: int,
        size: int,
        seed: int,
        hash_key: bytes,
        compressible: float = 0,
    ) -> None:
        self.machine, self.plane, self.epoch = machine, plane, Epoch(epoch)
        self.random = np.random.default_rng(seed)
        self.hash_key = hash_key
        self.base = np.zeros(size, np.uint8)
        self.next = 1
        self.sent: list[Sent] = []
        self.compressible = compressible

    def fill(self, share: float) -> None:
        """Give the disk its first content: ``share`` of its chunks random."""
        chunks = len(self.base) // CHUNK
        for chunk in self.random.permutation(chunks)[: int(chunks * share)]:
            self.base[chunk * CHUNK : (chunk + 1) * CHUNK] = self.random.integers(0, 256, CHUNK, np.uint8)

    def batch(self, writes: int, *, point: PointPayload | None = None, blocks: int = 1) -> Batch:
        """The next batch: random writes of ``blocks`` blocks, then perhaps a point. It is remembered."""
        records = np.zeros(writes + (point is not None), RECORD)
        slots = len(self.base) // BLOCK // blocks
        records["sector"][:writes] = self.random.integers(0, slots, writes) * blocks * SECTORS
        records["sectors"][:writes] = blocks * SECTORS
        records["kind"][:writes] = RecordKind.WRITE
        payload = self.random.integers(0, 256, writes * blocks * BLOCK, np.uint8)
        if self.compressible:
            payload.reshape(-1, BLOCK)[:, : int(BLOCK * self.compressible)] = 0
        data = payload.tobytes()
        if point is not None:
            text = encode_point(point)
            records[-1]["sectors"], records[-1]["kind"] = len(text) // SECTOR, RecordKind.POINT
            data += text
        made = Batch(self.machine, self.epoch, Role.JOURNAL, Sequence(self.next), time.time_ns(), records, data)
        self.next += len(records)
        self.sent.append(Sent(made))
        return made

    def send(self, batch: Batch) -> None:
        """Send a batch once; remember the acknowledgement. Raises what the client raises."""
        acknowledgement = self.plane.send(batch)
        assert acknowledgement.next_journal >= batch.end_sequence
        for sent in self.sent:
            if sent.batch is batch:
                sent.acknowledged = True

    def deliver(self, seconds: float = 300.0) -> None:
        """Send all that is not acknowledged, in order, repeating as a real agent would, until it is."""
        deadline = time.monotonic() + seconds
        while True:
            waiting = [sent for sent in self.sent if not sent.acknowledged]
            if not waiting:
                return
            try:
                expected = self.plane.status().next_journal
                assert expected >= self.acknowledged_end(), "the server lost what it had acknowledged"
                for sent in waiting:
                    if sent.batch.end_sequence > expected:
                        self.send(sent.batch)
                    sent.acknowledged = True
            except (TryLater, Gap) as error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(min(0.2, getattr(error, "after", None) or 0.2))

    def acknowledged_end(self) -> int:
        """The sequence after the last acknowledged record."""
        return max((sent.batch.end_sequence for sent in self.sent if sent.acknowledged), default=1)

    def disk_at(self, sequence: int) -> np.ndarray:
        """The disk after the records 1 … ``sequence``."""
        disk = self.base
        for sent in self.sent:
            disk = self.applied(disk, sent.batch, sequence)
        return disk

    @staticmethod
    def applied(disk: np.ndarray, batch: Batch, upto: int = 1 << 63) -> np.ndarray:
        """A copy of ``disk`` with the writes of a batch up to a sequence."""
        disk = disk.copy()
        payload, at = np.frombuffer(batch.payload, np.uint8), 0
        for number, record in enumerate(batch.records):
            length = int(record["sectors"]) * SECTOR
            if batch.first_sequence + number <= upto and record["kind"] == RecordKind.WRITE:
                start = int(record["sector"]) * SECTOR
                disk[start : start + length] = payload[at : at + length]
            at += length
        return disk

    def copy(self, *, compare: int = 1024, send: int = 64) -> int:
        """Copy the whole disk: compare and send what is missing. Answers the chunks sent."""
        chunks = self.base.reshape(-1, CHUNK)
        sent = 0
        for first in range(0, len(chunks), compare):
            run = chunks[first : first + compare]
            hashes = np.zeros((len(run), 32), np.uint8)
            for number, chunk in enumerate(run):
                if chunk.any():
                    hashes[number] = np.frombuffer(blake3(chunk, key=self.hash_key).digest(), np.uint8)
            verdicts = self.plane.compare(Comparison(DiskNumber(0), first, hashes))
            wanted = np.flatnonzero(verdicts == Verdict.SEND)
            for start in range(0, len(wanted), send):
                some = wanted[start : start + send]
                rows = np.zeros(len(some), CHUNK_ROW)
                rows["chunk"], rows["length"] = first + some, CHUNK
                rows["hash"] = hashes[some].view("V32").ravel()
                self.plane.send_chunks(DiskNumber(0), rows, [run[some].tobytes()])
                sent += len(some)
        return sent

    def complete(self, consistent_from: int = 0) -> None:
        """Declare the copy complete."""
        assert self.plane.complete_base(
            BaseCompletion(consistent_from=consistent_from, time=time.time_ns())
        ).base_complete


def description(*sizes: int) -> Description:
    """A machine with disks of these sizes."""
    disks = [Disk(number=number, name=f"vd{chr(97 + number)}", size=size) for number, size in enumerate(sizes)]
    return Description(
        hostname="simulated",
        firmware=Firmware.BIOS,
        processors=1,
        memory=1 << 30,
        operating_system="Debian 12",
        kernel="6.1",
        architecture="x86_64",
        disks=disks,
    )
