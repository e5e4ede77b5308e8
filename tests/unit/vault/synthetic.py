"""A machine whose writes are random and whose true contents are known at every position."""

from __future__ import annotations

import random
import uuid
from pathlib import Path

import numpy as np
from blake3 import blake3

from farshore.formats.batch import Batch, Role
from farshore.formats.chunk_exchange import CHUNK_ROW, Chunks, Comparison, Verdict, decode_chunks, encode_chunks
from farshore.formats.record import RECORD, RecordKind, payload_offsets
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, MachineId, Sequence
from farshore.model.machine import DiskDescription, Firmware, MachineDescription
from farshore.model.position import Position
from farshore.vault import BaseCopy, EpochRecord, MachineVault, OwnerKey, Vault, open_store
from farshore.vault.objects.segments import SegmentBuilder

MACHINE = MachineId(str(uuid.UUID(int=7)))
START = 1_700_000_000_000_000_000
STEP = 1_000_000_000
DESCRIPTION = MachineDescription(
    hostname="web1",
    firmware=Firmware.BIOS,
    processors=2,
    memory=1 << 30,
    operating_system="Debian 12",
    kernel="6.1",
    architecture="x86_64",
    disks=(DiskDescription(DiskNumber(0), "vda", 3 << 20, boot=True),),
)

State = dict[int, bytes]


class Machine:
    """Writes to a vault as a process server would; ``states`` has the contents of every disk by position."""

    def __init__(self, vault: Vault, seed: int, sizes: dict[int, int], machine: MachineId = MACHINE) -> None:
        self.vault, self.id = vault, machine
        self.random = random.Random(seed)
        self.in_vault: MachineVault = vault.machine(machine, create=True)
        self.disks = {number: bytearray(size) for number, size in sizes.items()}
        self.states: dict[Position, State] = {}
        self.time = START
        self.step = STEP
        self.description = DESCRIPTION
        self.epoch = 0
        self.domain = 0
        """The deduplication domain of the next epoch."""
        self.next = {Role.JOURNAL: 1, Role.BASE: 1}

    def fill(self) -> None:
        """Random contents with a zero stretch."""
        for number, data in self.disks.items():
            data[:] = self.random.randbytes(len(data))
            data[100_000:600_000] = bytes(len(data[100_000:600_000]))
            self.disks[number] = data

    def here(self) -> State:
        return {number: bytes(data) for number, data in self.disks.items()}

    def begin_epoch(
        self, parent: Position | None, kind: str = "initial", overlay: int = 0, only_points: bool = False
    ) -> int:
        """A new epoch whose base is what the disks hold; answers how many chunks had to be sent."""
        self.epoch += 1
        self.next = {Role.JOURNAL: 1, Role.BASE: 1}
        self.time += self.step
        sizes = [(DiskNumber(number), len(data)) for number, data in self.disks.items()]
        copy = self.in_vault.bases.begin_copy(Epoch(self.epoch), sizes, parent, self.domain)
        sent = sum(self._copy_disk(copy, number) for number in self.disks)
        if overlay:
            builder = SegmentBuilder(self.in_vault.key, self.in_vault.id, Epoch(self.epoch), Role.BASE)
            builder.add(builder.seal(self.batch(overlay, Role.BASE)))
            self.in_vault.writing.put_segment(builder.build())
        disks = copy.finish()
        copy.close()
        end = Sequence(self.next[Role.BASE])
        record = EpochRecord(
            Epoch(self.epoch), kind, parent, Sequence(0), self.time, end, disks, self.epoch, only_points,
            copy.domain,
        )  # fmt: skip
        self.in_vault.writing.put_description(self.description, self.epoch)
        assert self.in_vault.writing.put_epoch(record)
        self.states[Position(Epoch(self.epoch), Sequence(0))] = self.here()
        return sent

    def journal(self, segments: int, batches: int, count: int) -> None:
        for _ in range(segments):
            builder = SegmentBuilder(self.in_vault.key, self.in_vault.id, Epoch(self.epoch), Role.JOURNAL)
            for _ in range(batches):
                builder.add(builder.seal(self.batch(count)))
            self.in_vault.writing.put_segment(builder.build())

    def write(self, kind: RecordKind, disk: int, offset: int, length: int) -> None:
        """A segment of one chosen record, random data where it has any; whole sectors."""
        rows = np.zeros(1, RECORD)
        payload = self.random.randbytes(length) if kind is RecordKind.WRITE else b""
        rows[0]["kind"], rows[0]["disk"] = kind, disk
        rows[0]["sector"], rows[0]["sectors"] = offset // 512, length // 512
        self.disks[disk][offset : offset + length] = payload or bytes(length)
        first = self.next[Role.JOURNAL]
        self.next[Role.JOURNAL] += 1
        self.time += self.step
        self.states[Position(Epoch(self.epoch), Sequence(first))] = self.here()
        builder = SegmentBuilder(self.in_vault.key, self.in_vault.id, Epoch(self.epoch), Role.JOURNAL)
        batch = Batch(self.id, Epoch(self.epoch), Role.JOURNAL, Sequence(first), self.time, rows, payload)
        builder.add(builder.seal(batch))
        self.in_vault.writing.put_segment(builder.build())

    def batch(self, count: int, role: Role = Role.JOURNAL) -> Batch:
        """Random records, applied to the disks; the state after each journal batch is kept."""
        rows = np.zeros(count, RECORD)
        payload = bytearray()
        for number in range(count):
            payload += self._draw(rows, number)
        first = self.next[role]
        self.next[role] += count
        self.time += self.step
        if role is Role.JOURNAL:
            self.states[Position(Epoch(self.epoch), Sequence(first + count - 1))] = self.here()
        return Batch(self.id, Epoch(self.epoch), role, Sequence(first), self.time, rows, bytes(payload))

    def go_back(self, position: Position) -> None:
        """Make the disks what they were."""
        for number, data in self.states[position].items():
            self.disks[number] = bytearray(data)

    def check(self, position: Position) -> None:
        """Whole disks, random reads and extents at ``position`` equal the model."""
        for number, expected in self.states[position].items():
            source = self.in_vault.disks.open(position, DiskNumber(number))
            try:
                assert source.size == len(expected)
                assert read(source, 0, source.size) == expected
                for _ in range(8):
                    offset = self.random.randrange(source.size)
                    length = min(source.size - offset, self.random.randrange(1, 200_000))
                    assert read(source, offset, length) == expected[offset : offset + length]
                for chunk in range(0, len(expected), CHUNK):
                    # A shorter one, from before the disk grew, is left to the reader's own check of the length.
                    whole = source.whole_chunk(chunk // CHUNK)
                    assert whole is None or bytes(whole) == expected[chunk : chunk + len(whole)]
                end = 0
                for extent in source.extents(0, source.size):
                    assert extent.offset == end
                    end += extent.length
                    if extent.zero:
                        assert not any(expected[extent.offset : end])
                assert end == source.size
            finally:
                source.close()

    def _copy_disk(self, copy: BaseCopy, number: int) -> int:
        data = bytes(self.disks[number])
        chunks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
        key = self.vault.chunk_store(copy.domain).keys.hash
        digests = b"".join(blake3(chunk, key=key).digest() if any(chunk) else bytes(32) for chunk in chunks)
        hashes = np.frombuffer(digests, np.uint8).reshape(-1, 32)
        verdicts = copy.compare(Comparison(DiskNumber(number), 0, hashes))
        send = np.flatnonzero(verdicts == Verdict.SEND).tolist()
        rows = np.zeros(len(send), CHUNK_ROW)
        for place, chunk in enumerate(send):
            rows[place] = (chunk, len(chunks[chunk]), 0, hashes[chunk].tobytes())
        body = encode_chunks(Chunks(DiskNumber(number), rows, b"".join(chunks[chunk] for chunk in send)))
        copy.put(decode_chunks(b"".join(body)))
        return len(send)

    def _draw(self, rows: np.ndarray, number: int) -> bytes:
        disk = self.random.choice(sorted(self.disks))
        data = self.disks[disk]
        rows[number]["disk"], rows[number]["time_us"] = disk, number * 10
        roll = self.random.random()
        if roll < 0.7:
            sector = self.random.randrange(len(data) // 4096) * 8
            sectors = min(8, len(data) // 512 - sector)
            if roll > 0.5:  # part of a block
                skip = self.random.randrange(sectors)
                sector, sectors = sector + skip, self.random.randint(1, sectors - skip)
            piece = b"".join(self.random.randbytes(16) * 32 for _ in range(sectors))
            rows[number]["kind"] = RecordKind.WRITE
        elif roll < 0.9:
            sector = self.random.randrange(len(data) // 512)
            longest = len(data) // 512 - sector
            sectors = self.random.randint(1, longest if roll < 0.72 else min(longest, 40))
            piece = b""
            rows[number]["kind"] = RecordKind.ZERO if roll < 0.8 else RecordKind.DISCARD
        elif roll < 0.95:
            sector, sectors, piece = 0, 0, b""
            rows[number]["kind"] = RecordKind.FLUSH
        else:
            rows[number]["kind"], rows[number]["sectors"] = RecordKind.POINT, 1
            return b"{}".ljust(512)
        rows[number]["sector"], rows[number]["sectors"] = sector, sectors
        data[sector * 512 : (sector + sectors) * 512] = piece or bytes(sectors * 512)
        return piece


def new_vault(folder: Path) -> tuple[Vault, OwnerKey]:
    owner = OwnerKey.generate_file(folder / "owner.key")
    return Vault.create(open_store(f"file://{folder}/vault"), owner), owner


def memory_vault() -> Vault:
    return Vault.create(open_store("memory:///"), OwnerKey(bytes(32), "key-file"))


def read(source: object, offset: int, length: int) -> bytes:
    data = bytearray(length)
    source.read_into(offset, memoryview(data))  # type: ignore[attr-defined]
    return bytes(data)


def cut(batch: Batch, count: int) -> Batch:
    """The first ``count`` records of a batch."""
    end = int(payload_offsets(batch.records)[count])
    return Batch(
        batch.machine,
        batch.epoch,
        batch.role,
        batch.first_sequence,
        batch.base_time,
        batch.records[:count],
        memoryview(batch.payload)[:end],
    )
