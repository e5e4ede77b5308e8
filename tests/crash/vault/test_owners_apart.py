"""Two installations alive at once on a real object store, each in a network of its own: the former one's process server
and upkeep are stopped, cut off or left alone while another one adopts the vault, their clocks are set by days, and they
go on. Whatever they then do, no state is lost that was offered, and no stream has two writers.

By chance, with a seed that is printed: so it is in the long set. test_two_owners tries each moment in turn.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.contract.doubles import azurite, ceph
from tests.crash.fire.azure_store import AzureStore
from tests.crash.fire.namespaces import Namespaces
from tests.crash.fire.processes import Clock
from tests.crash.vault.former_owner import SIZE, STEP
from tests.unit.vault.synthetic import MACHINE, Machine, read
from tests.waiting import until

from farshore.formats.batch import Role
from farshore.formats.vault_names import RecordName
from farshore.model.errors import Displaced, FarshoreError
from farshore.model.identifiers import DiskNumber, Epoch
from farshore.model.position import Position
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.ownership import How, Owner, Ownership, claim, epochs_after, newest_owner, pardon
from farshore.vault.records import read_records, write_record
from farshore.vault.stores.owned import OwnedStore

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.timeout(900)]
TWO_DAYS = 2 * 86400
MOST_READ = 16
FAULTS = ("held", "refused", "swallowed", "none")
"""What happens to the former owner while the vault is adopted: its processes are stopped (SIGSTOP), its connections
break off, its packets vanish; or nothing at all, and both go on at once."""
DISPLACED = Displaced("", remedy="").exit_status


class Place:
    """A store, reached from here, and over a way that can be cut from the namespace of the former owner."""

    def __init__(self, url: str, network: Namespaces, way: AzureStore, folder: Path) -> None:
        self.url, self.network, self.way, self.folder = url, network, way, folder
        self.key = folder / "owner.key"
        self.vault = Vault.create(open_store(url), OwnerKey.generate_file(self.key))


@pytest.fixture(scope="module", params=["azurite", "ceph"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    double = {"azurite": azurite, "ceph": ceph}[request.param]
    with contextlib.ExitStack() as undo:
        try:
            url, environment = undo.enter_context(double())
        except FileNotFoundError as error:
            pytest.skip(str(error))
        patched = undo.enter_context(pytest.MonkeyPatch.context())
        for name, value in environment.items():
            patched.setenv(name, value)
        network = undo.enter_context(Namespaces())
        endpoint = environment.get("AZURE_STORAGE_ENDPOINT") or environment["AWS_ENDPOINT"]
        port = urlsplit(endpoint).port
        assert port is not None
        way = AzureStore(url, port, network.servers)
        undo.callback(way.close)
        yield Place(url, network, way, tmp_path_factory.mktemp(request.param))


class Former:
    """The processes of one generation, in their own network."""

    def __init__(self, place: Place, generation: int) -> None:
        self._place = place
        self.clock = Clock(place.folder / f"{generation}.clock")
        self._logs: list[Path] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for role in ("stream", "upkeep"):
            command = [*place.network.command(place.network.servers), sys.executable, "-m"]
            command += ["tests.crash.vault.former_owner", role, place.url, str(place.key), str(generation), MACHINE]
            path = place.folder / f"{role}-{generation}.log"
            with path.open("wb") as log:
                environment = {**os.environ, **self.clock.environment(), "AWS_TIMEOUT": "10 seconds"}
                self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
            self._logs.append(path)

    def rounds(self) -> int:
        """How often the one that did least has done its work."""
        return min(path.read_text().count("round ") for path in self._logs)

    def until_at_work(self, rounds: int) -> None:
        wanted = self.rounds() + rounds
        until(lambda: self.rounds() >= wanted, "\n".join(path.read_text()[-800:] for path in self._logs))

    def until_heard_of(self) -> None:
        """Until each has said something more, or has ended. With a wrong clock S3 refuses it: then it cannot even hear
        that it was displaced, and goes on trying."""
        sizes = [path.stat().st_size for path in self._logs]
        until(
            lambda: all(
                status is not None or path.stat().st_size > size
                for status, path, size in zip(self.statuses(), self._logs, sizes, strict=True)
            ),
            "the former owner is silent",
        )

    def signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(number)

    def statuses(self) -> list[int | None]:
        return [process.poll() for process in self._processes]

    def told(self) -> str:
        return "\n".join(path.read_text()[-800:] for path in self._logs)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(120)


class Successor:
    """Who adopts the vault: what it was offered, and the epoch that it then writes."""

    def __init__(self, place: Place) -> None:
        store, key = place.vault.store, place.vault.upkeep_key
        before = newest_owner(store, key)
        assert before is not None
        wanted = Owner(f"after-{before.generation}", 0, 2, How.ADOPTED, "https://far", epochs_after(before.epochs_from))
        self.owner = claim(store, key, before, wanted)
        pardon(store, key)
        self._place = place
        guarded = OwnedStore(open_store(place.url))
        self.vault = Vault.open(guarded, OwnerKey.from_file(place.key))
        guarded.guard = Ownership(guarded, self.vault.upkeep_key, self.owner.generation)
        self.offered = states(place, chosen(place))
        assert self.offered

    def stream(self, segments: int) -> None:
        self.machine = Machine(self.vault, self.owner.generation, {0: SIZE}, MACHINE)
        self.machine.epoch = self.owner.epochs_from
        self.machine.time, self.machine.step = self.machine.in_vault.points.latest().time, STEP
        self.machine.fill()
        self.machine.begin_epoch(None, "resync")
        for _ in range(segments):
            self.machine.journal(segments=1, batches=1, count=4)
        name = RecordName("policies", self.owner.generation, 1)
        assert write_record(self.vault.store, self.vault.installation_key, name, [{"name": self.owner.installation}], 1)

    def check(self) -> None:
        """What it was offered is there as it was, and so is all that it wrote; nobody else wrote in its epochs."""
        assert states(self._place, list(self.offered)) == self.offered
        opened = Vault.open(open_store(self._place.url), OwnerKey.from_file(self._place.key))
        self.machine.in_vault = opened.machine(MACHINE)
        timeline = self.machine.in_vault.stored.timeline()
        mine = [number for number in timeline.epochs if number > self.owner.epochs_from]
        assert mine == [self.machine.epoch]
        assert timeline.run(Epoch(self.machine.epoch), Role.JOURNAL).behind_gap == []
        for position in self.machine.states:
            if position.epoch == self.machine.epoch:
                self.machine.check(position)
        newest = self.machine.in_vault.points.latest().position
        assert (newest.epoch, newest.sequence + 1) == (self.machine.epoch, self.machine.next[Role.JOURNAL])
        kept = read_records(opened.store, opened.installation_key)["policies"]
        assert kept.rows == [{"name": self.owner.installation}]


def chosen(place: Place) -> list[Position]:
    """Of the points that are offered some of all ages, and the newest."""
    opened = Vault.open(open_store(place.url), OwnerKey.from_file(place.key))
    offered = [point.position for point in opened.machine(MACHINE).points.listed()]
    return [*offered[:: max(1, len(offered) // MOST_READ)], offered[-1]]


def states(place: Place, positions: list[Position]) -> dict[Position, str]:
    """What those points hold that are still offered."""
    opened = Vault.open(open_store(place.url), OwnerKey.from_file(place.key))
    machine, found = opened.machine(MACHINE), {}
    for position in {point.position for point in machine.points.listed()} & set(positions):
        source = machine.disks.open(position, DiskNumber(0))
        found[position] = hashlib.sha256(read(source, 0, source.size)).hexdigest()
        source.close()
    return found


def begin(place: Place) -> int:
    """A machine with a past, and an owner if there is none yet; answers the present generation."""
    store, key = place.vault.store, place.vault.upkeep_key
    owner = newest_owner(store, key)
    if owner is None:
        owner = claim(store, key, None, Owner("first", 0, 1, How.MADE, "https://near"))
        machine = Machine(place.vault, 5, {0: SIZE}, MACHINE)
        machine.step = STEP
        machine.fill()
        machine.begin_epoch(None)
        machine.journal(segments=12, batches=1, count=4)
    return owner.generation


@pytest.mark.parametrize("fault", FAULTS)
def test_both_alive_on_a_real_store_harm_nothing(place: Place, fault: str) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(1 << 32))
    print(f"{fault}: SEED={seed}")
    chance = random.Random(seed)
    former = Former(place, begin(place))
    try:
        former.until_at_work(2)
        time.sleep(chance.uniform(0, 1))
        if fault == "held":
            former.signal(signal.SIGSTOP)
        elif fault == "refused":
            place.way.refuse()
        elif fault == "swallowed":
            place.way.hold()
        successor = Successor(place)
        former.clock.set(chance.choice((-TWO_DAYS, TWO_DAYS)))
        if chance.random() < 0.5:  # it comes back before the successor has written, or after
            successor.stream(4)
            former.signal(signal.SIGCONT)
            place.way.deliver()
        else:
            former.signal(signal.SIGCONT)
            place.way.deliver()
            successor.stream(4)
        former.until_heard_of()
        former.clock.set(0)
        until(lambda: None not in former.statuses(), f"the former owner does not stop: {former.told()}")
        assert former.statuses() == [DISPLACED, DISPLACED], former.told()
        successor.check()
    finally:
        place.way.deliver()
        former.signal(signal.SIGCONT)
        former.close()


def test_one_that_asks_nobody_would_do_harm(place: Place) -> None:
    """The control: with what stops the former owner left out, the check fails."""
    begin(place)
    former = Former(place, 0)
    try:
        former.until_at_work(2)
        with pytest.raises((AssertionError, FarshoreError)):
            take_over_beside(former, place)
    finally:
        former.close()


def take_over_beside(former: Former, place: Place) -> None:
    """Adopt the vault, write and check, while the former owner goes on: what it harms may show at any step."""
    successor = Successor(place)
    successor.stream(12)
    former.until_at_work(4)
    former.close()
    successor.check()
