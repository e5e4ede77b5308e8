"""What each way of delivery must promise (farshore.delivery.port): served by real export processes, and written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.places import short_folder
from tests.scenarios.export.nbd_client import NbdClient
from tests.scenarios.recovery.one_host import OneHost
from tests.unit.vault.synthetic import MACHINE, Machine

from farshore.delivery.in_place import InPlaceDelivery
from farshore.delivery.port import Consignment, Delivery
from farshore.delivery.served import ServedDelivery
from farshore.delivery.written import WrittenDelivery
from farshore.export.launch import ExportLauncher
from farshore.export.nbd.wire import Command
from farshore.model.errors import Cancelled, FarshoreError
from farshore.model.identifiers import DiskNumber
from farshore.sites.port import ServedDisk, UnixAddress, Way
from farshore.vault import OwnerKey, Vault, open_store

SIZES = {0: 3 << 20, 2: 1 << 20}
OWN = b"the machine's own".ljust(4096, b".")
MACHINES: dict[str, Machine] = {}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Consignment:
    folder = tmp_path_factory.mktemp("vault")
    made = Vault.create(open_store(f"file://{folder / 'vault'}"), OwnerKey.generate_file(folder / "owner.key"))
    machine = Machine(made, seed=3, sizes=SIZES)
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=2, batches=1, count=20)
    MACHINES["one"] = machine
    sizes = {DiskNumber(number): size for number, size in SIZES.items()}
    position = str(machine.in_vault.points.latest().position)
    return Consignment(folder, "web1", str(MACHINE), position, sizes, f"file://{folder / 'vault'}", made.key_hex)


@pytest.fixture
def consignment(vault: Consignment) -> Iterator[Consignment]:
    with short_folder() as folder:
        yield replace(vault, folder=folder / "failovers" / "f1")


@pytest.fixture(params=[Way.SERVED, Way.WRITTEN])
def delivery(request: pytest.FixtureRequest, consignment: Consignment) -> Iterator[Delivery]:
    # As the server has them: without a note of surviving disks all is written.
    written = InPlaceDelivery(WrittenDelivery(step=1 << 20), OneHost())
    made: Delivery = ServedDelivery(ExportLauncher()) if request.param is Way.SERVED else written
    yield made
    made.withdraw(consignment.folder)


def watch(_fraction: float, _words: str) -> None:
    pass


class Attached:
    """A disk as its machine has it."""

    def __init__(self, delivery: Delivery, consignment: Consignment, number: int) -> None:
        self._size = SIZES[number]
        medium = delivery.media(consignment)[DiskNumber(number)]
        self._client: NbdClient | None = None
        if isinstance(medium, ServedDisk):
            assert isinstance(medium.address, UnixAddress)
            self._client = NbdClient(medium.address.path, medium.export)
        else:
            self._file = medium.path

    def read(self) -> bytes:
        if self._client is None:
            return self._file.read_bytes()
        return b"".join(self._client.read(place, 1 << 20) for place in range(0, self._size, 1 << 20))

    def write(self, data: bytes) -> None:
        if self._client is None:
            with self._file.open("r+b") as file:
                file.write(data)
        else:
            self._client.call(int(Command.WRITE), 0, len(data), data=data)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def disk(delivery: Delivery, consignment: Consignment, number: int) -> contextlib.closing[Attached]:
    return contextlib.closing(Attached(delivery, consignment, number))


def test_each_disk_is_the_points_and_every_call_may_be_repeated(delivery: Delivery, consignment: Consignment) -> None:
    folder = consignment.folder
    assert not delivery.stands(folder)
    for _ in range(2):
        delivery.deliver(consignment, watch)
        assert delivery.stands(folder)
        for number in SIZES:
            with disk(delivery, consignment, number) as attached:
                assert attached.read() == bytes(MACHINES["one"].disks[number])
    assert folder.parent.stat().st_mode & 0o077 == 0
    for _ in range(2):
        delivery.withdraw(folder)
        assert not delivery.stands(folder)
        assert not list(folder.glob("disk-*"))


def test_what_the_machine_wrote_is_kept(delivery: Delivery, consignment: Consignment) -> None:
    delivery.deliver(consignment, watch)
    with disk(delivery, consignment, 2) as attached:
        attached.write(OWN)
    for _ in range(2):
        delivery.rest(consignment.folder)
    for _ in range(2):
        delivery.restore(consignment)
        assert delivery.stands(consignment.folder)
        with disk(delivery, consignment, 2) as attached:
            assert attached.read() == OWN + bytes(MACHINES["one"].disks[2])[len(OWN) :]
    for _ in range(2):
        delivery.settle(consignment.folder)


def test_what_was_written_before_the_start_is_taken_back_or_said_to_stay(
    delivery: Delivery, consignment: Consignment
) -> None:
    delivery.deliver(consignment, watch)
    assert delivery.at_hand(consignment) == delivery.media(consignment)
    with disk(delivery, consignment, 0) as attached:
        before = attached.read()
        attached.write(OWN)
        written = attached.read()
    assert before != written
    renewed = delivery.renew(consignment)
    assert delivery.stands(consignment.folder)
    with disk(delivery, consignment, 0) as attached:
        assert attached.read() == (before if renewed else written)


def test_a_cancelled_delivery_is_withdrawn_whole(delivery: Delivery, consignment: Consignment) -> None:
    def cancel(_fraction: float, _words: str) -> None:
        raise Cancelled("The failover was cancelled.", remedy="Ask again.")

    with pytest.raises(Cancelled):
        delivery.deliver(consignment, cancel)
    delivery.withdraw(consignment.folder)
    assert not delivery.stands(consignment.folder)
    assert not list(consignment.folder.glob("disk-*"))


def test_a_point_that_does_not_open_is_told(delivery: Delivery, consignment: Consignment, tmp_path: Path) -> None:
    elsewhere = replace(consignment, vault_url=f"file://{tmp_path / 'nothing'}")
    with pytest.raises(FarshoreError) as raised:
        delivery.deliver(elsewhere, watch)
    assert raised.value.remedy
    delivery.withdraw(consignment.folder)
