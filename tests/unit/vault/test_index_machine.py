"""Random walks: copies on several servers, each with an index on its own disk, collectors and crashes.

No copy may be told that a chunk is held whose pack is not there, is condemned, or belongs to another domain; every
state stays what it was. Servers are closed, killed, started on an older copy of their folder, on another server's, or
on a damaged one. A copy's steps and the work of collectors come in any order. The clocks of all agree, so condemned
packs are deleted beside copies that began later; those copies must not have found them.
"""

from __future__ import annotations

import contextlib
import functools
import random
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from tests.unit.vault.faulty_store import KillableStore, Killed
from tests.unit.vault.synthetic import DESCRIPTION, Machine, memory_vault

from farshore.formats import vault_names
from farshore.formats.chunk_exchange import CHUNK_ROW, Chunks, Comparison, Verdict
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, MachineId, Sequence
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault import BaseCopy, EpochRecord, Vault
from farshore.vault.chunk_index import ChunkIndex
from farshore.vault.objects import chunks, directories
from farshore.vault.upkeep import collection
from farshore.vault.upkeep.collection import Collection, collect
from farshore.vault.upkeep.condemned import read_condemned
from farshore.vault.upkeep.erasure import erase
from farshore.vault.upkeep.retention import apply_retention
from farshore.vault.upkeep.turns import renew_directories
from farshore.vault.upkeep.verify import verify

POLICY = ReplicationPolicy(hot_window=3600, keep_hourly=0, keep_daily=0)
SERVERS, MACHINES = 3, 3
DISK = 3 * CHUNK
STEPS = 120
POOL = [random.Random(number).randbytes(CHUNK) for number in range(7)]
"""What disks are made of: few chunks, so that they die and are asked for again and again."""
SMALL = (
    (chunks, "PACK_TARGET", CHUNK + 1),  # two chunks a pack
    (chunks, "ChunkIndex", functools.partial(ChunkIndex, smallest=4)),
    (chunks, "_WORTH_DIRECTORIES", 2),
    (directories, "PACKS", 4),
    (directories, "_LEAST", 2),
    (directories, "_MOST_SMALL", 2),
    (collection, "CLOCKS", 0),
)


def copied(source: str, target: str) -> None:
    """Copy a file of a folder in use: its index merges parts meanwhile, and removes those it has merged."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(source, target)


class OpenCopy:
    """A copy under way, its epoch from scratch."""

    def __init__(self, machine: Machine, server: int, copy: BaseCopy, lease: set[str]) -> None:
        self.machine, self.server, self.copy, self.lease = machine, server, copy, lease
        self.send: list[int] | None = None


class Walk:
    """Machines in one vault, copied by any of its servers."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.upkeep = memory_vault()
        self.store = self.upkeep.store
        self.apart = self.upkeep.domain("apart")
        self.machines = [self.new_machine(number) for number in range(MACHINES)]
        self.servers = [self.started(number) for number in range(SERVERS)]
        self.copies: dict[MachineId, OpenCopy] = {}
        self.collected = Collection()
        self.condemned = self.deleted = self.directories = self.copied = 0
        """How often: a walk that reaches none of it shows nothing."""

    def new_machine(self, number: int) -> Machine:
        """The last one is in a domain of its own."""
        name = MachineId(str(uuid.UUID(int=self.random.getrandbits(128))))
        machine = Machine(self.upkeep, number, {0: DISK}, name)
        machine.step = 7200 * 10**9
        machine.domain = self.apart if number == MACHINES - 1 else 0
        return machine

    def step(self) -> None:
        """Something happens."""
        draw = self.random
        server, machine = draw.randrange(SERVERS), draw.randrange(MACHINES)
        chosen = draw.choices(
            ["copy", "begin", "go on", "look after", "restart", "strange", "lose", "keep", "renew", "erase", "check"],
            [35, 10, 15, 15, 6, 5, 5, 3, 3, 2, 1],
        )[0]
        if chosen == "copy":
            self.begin_a_copy(machine, server)
            while self.machines[machine].id in self.copies:
                self.next_step(self.copies[self.machines[machine].id])
        elif chosen == "begin":
            self.begin_a_copy(machine, server)
        elif chosen == "go on" and self.copies:
            self.next_step(draw.choice(list(self.copies.values())))
        elif chosen == "look after":
            self.look_after_the_vault(draw.randint(1, 3), draw.choice([None, None, draw.randrange(12)]))
        elif chosen == "restart":
            self.restart(server, draw.choice(["close", "kill", "close late"]))
        elif chosen == "strange":
            self.find_a_strange_folder(server, draw.randrange(SERVERS), older=draw.random() < 0.6)
        elif chosen == "lose":
            self.lose_bytes(server, swap=draw.random() < 0.4)
        elif chosen == "keep":
            self.keep_its_folder(server)
        elif chosen == "renew":
            renew_directories(self.upkeep, self.collected)  # another upkeep, which collected long ago
        elif chosen == "erase":
            self.erase_one(machine)
        elif chosen == "check":
            self.check_all()

    # Copies, step by step

    def begin_a_copy(self, machine: int, server: int) -> None:
        mine = self.machines[machine]
        if mine.id in self.copies:
            return
        mine.disks[0][:] = b"".join(self.random.choices(POOL, k=DISK // CHUNK))
        mine.epoch += 1
        leases = self.leases()
        copy = (
            self.servers[server]
            .machine(mine.id)
            .bases.begin_copy(Epoch(mine.epoch), [(DiskNumber(0), DISK)], None, mine.domain)
        )
        self.copies[mine.id] = OpenCopy(mine, server, copy, self.leases() - leases)
        self.nothing_is_held_that_is_not(server, mine.domain, new=True)

    def next_step(self, one: OpenCopy) -> None:
        data, copy = bytes(one.machine.disks[0]), one.copy
        pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
        hashes = np.frombuffer(b"".join(copy.chunk_hash(piece) for piece in pieces), np.uint8).reshape(-1, 32)
        if one.send is None:
            verdicts = copy.compare(Comparison(DiskNumber(0), 0, hashes))
            one.send = np.flatnonzero(verdicts == Verdict.SEND).tolist()
        elif one.send:
            number = one.send.pop()
            rows = np.zeros(1, CHUNK_ROW)
            rows[0] = (number, CHUNK, 0, hashes[number].tobytes())
            copy.put(Chunks(DiskNumber(0), rows, pieces[number]))
        else:
            del self.copies[one.machine.id]
            self.finish(one)

    def finish(self, one: OpenCopy) -> None:
        mine = one.machine
        mine.time += mine.step
        record = EpochRecord(
            Epoch(mine.epoch), "initial", None, Sequence(0), mine.time, Sequence(1), one.copy.finish(), mine.epoch,
            False, mine.domain,
        )  # fmt: skip
        in_vault = self.servers[one.server].machine(mine.id)
        in_vault.writing.put_description(DESCRIPTION, mine.epoch)
        assert in_vault.writing.put_epoch(record)
        one.copy.close()
        mine.states[Position(Epoch(mine.epoch), Sequence(0))] = mine.here()
        mine.check(max(mine.states))
        self.copied += 1

    # Servers

    def restart(self, server: int, how: str) -> None:
        """``close late``: copies of the process end after it gave its folder up."""
        if how != "close late":
            self.break_off(server)
        self.stop(server, how)
        self.servers[server] = self.started(server)

    def keep_its_folder(self, server: int) -> None:
        """For `find_an_older_folder`."""
        shutil.rmtree(self.folder / "kept", ignore_errors=True)
        if (self.folder / str(server)).exists():
            shutil.copytree(self.folder / str(server), self.folder / "kept", copy_function=copied)

    def find_a_strange_folder(self, server: int, other: int, older: bool) -> None:
        """An older copy of a folder, or another server's, in the place of its own."""
        source = self.folder / ("kept" if older else str(other))
        if not source.exists() or source == self.folder / str(server):
            return
        self.break_off(server)
        self.stop(server, "kill")
        shutil.rmtree(self.folder / str(server), ignore_errors=True)
        shutil.copytree(source, self.folder / str(server), copy_function=copied)
        self.servers[server] = self.started(server)

    def lose_bytes(self, server: int, swap: bool) -> None:
        """In one of its files; ``swap``: two domains' folders are exchanged."""
        self.break_off(server)
        self.stop(server, "close")
        files = [path for path in sorted((self.folder / str(server)).rglob("*")) if path.is_file()]
        files = [path for path in files if path.stat().st_size]
        if swap:
            domains = list((self.folder / str(server)).glob("*/*"))
            if len(domains) == 2:
                domains[0].rename(self.folder / "aside")
                domains[1].rename(domains[0])
                (self.folder / "aside").rename(domains[1])
        elif files:
            path = self.random.choice(files)
            data = bytearray(path.read_bytes())
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            path.write_bytes(data[: self.random.choice([len(data), self.random.randrange(len(data) + 1)])])
        self.servers[server] = self.started(server)

    # Upkeep

    def look_after_the_vault(self, times: int, at: int | None) -> None:
        """Its parts; killed before a write, if ``at`` is one."""
        vault = Vault.with_keys(KillableStore(self.store, at), self.upkeep._keys)
        try:
            for _ in range(times):
                for machine in self.machines:
                    if machine.states:
                        apply_retention(vault.machine(machine.id), POLICY)
                self.collected = collect(vault, lambda _machine: POLICY, grace=0)
                self.condemned += self.collected.condemned > 0
                self.deleted += self.collected.deleted_objects
                self.directories += renew_directories(vault, self.collected)
        except Killed:
            return

    def erase_one(self, machine: int) -> None:
        mine = self.machines[machine]
        if mine.id not in self.copies and mine.states:
            erase(self.upkeep, mine.id)
            self.machines[machine] = self.new_machine(machine)

    def check_all(self) -> None:
        for machine in self.machines:
            for point in machine.in_vault.points.listed():
                machine.check(point.position)
        assert verify(self.upkeep, data=True).findings == []

    def nothing_is_held_that_is_not(self, server: int, domain: int, *, new: bool) -> None:
        """``new``: a copy has just begun, and condemned packs are not held either."""
        held = self.servers[server].chunk_store(domain)
        hashes = b"".join(blake3(piece, key=held.keys.hash).digest() for piece in POOL)
        found, locators = held.find(np.frombuffer(hashes, np.uint8).reshape(-1, 32))
        there = {item.name for item in self.store.list(vault_names.chunk_packs(domain))}
        if new:
            there -= read_condemned(self.store, self.upkeep.upkeep_key).keys()
        for locator in locators[found]:
            assert vault_names.chunk_pack(locator["salt"].tobytes(), domain) in there

    def started(self, number: int) -> Vault:
        return Vault.with_keys(self.store, self.upkeep._keys, indexes=self.folder / str(number))

    def stop(self, number: int, how: str) -> None:
        """``kill``: nothing that is in memory only is written, and the lock is free."""
        vault = self.servers[number]
        for one in vault._chunks.values():
            index = one._opened
            if index is not None:
                index.settle()
                if how == "kill" and index._folder is not None:
                    index._folder.close()
        if how != "kill":
            vault.close()

    def break_off(self, server: int) -> None:
        """Copies die with their server, and their leases with them."""
        for one in [one for one in self.copies.values() if one.server == server]:
            one.copy.close()
            del self.copies[one.machine.id]

    def leases(self) -> set[str]:
        return {item.name for item in self.store.list(vault_names.LEASES)}

    def end(self) -> None:
        """Copies under way end well; everything is whole."""
        for one in list(self.copies.values()):
            while one.machine.id in self.copies:
                self.next_step(one)
        self.check_all()
        for number in range(SERVERS):
            self.stop(number, "close")


@pytest.mark.parametrize("seed", range(6))
def test_no_walk_loses_a_chunk(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in SMALL:
        monkeypatch.setattr(module, name, value)
    walk = Walk(seed, tmp_path)
    for _ in range(STEPS):
        walk.step()
    walk.end()
    assert min(walk.condemned, walk.deleted, walk.directories, walk.copied) > 3
