"""What only Azure's site has: uploads to its disks, isolation, and Resource Manager's bad days. By the double."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from azure.mgmt.compute import ComputeManagementClient
from tests.azure.resources import Resource
from tests.contract.azure_place import AzurePlace, azure_place
from tests.contract.conftest import Double
from tests.file_site import FileExports, Fuse
from tests.unit.delivery.test_written import SIZES, World

from farshore.delivery.served import ServedDelivery, export_settings
from farshore.delivery.uploaded import UploadedDelivery
from farshore.export.opening import open_devices
from farshore.formats.vhd import rounded
from farshore.model.errors import (
    Cancelled,
    FarshoreError,
    Forbidden,
    NotFound,
    Refused,
    TryLater,
    Unauthenticated,
)
from farshore.model.identifiers import DiskNumber
from farshore.model.machine import Firmware, NicDescription
from farshore.model.target import NetworkKind
from farshore.sites.azure import long_operations
from farshore.sites.azure.clients import VERSIONS
from farshore.sites.azure.names import SIZE, machine_name
from farshore.sites.azure.settings import AzureSettings
from farshore.sites.azure.site import AzureSite
from farshore.sites.port import AttachedNetwork, Condition, FailoverId, RecoveryOrder

MIB = 1 << 20
SERVERS = AttachedNetwork(NetworkKind.NETWORK, "servers")


@pytest.fixture(scope="module")
def place(double: Double, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzurePlace]:
    folder, disks = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("disks")
    with azure_place(folder, disks, double("azurite")[1]) as made:
        yield made


@pytest.fixture(autouse=True)
def clean(place: AzurePlace) -> Iterator[None]:
    yield
    place.served.double.faults.clear()
    place.served.double.known.lag.clear()
    place.served.double.known.cores = 100
    for failover in place.site.present():
        place.site.destroy(failover)
        place.site.discard(failover)


def kept(place: AzurePlace, kind: str, failover: str) -> list[Resource]:
    return [one for path, one in place.served.double.known.of(kind) if failover in path]


def upload_world(place: AzurePlace, folder: Path) -> tuple[World, FailoverId]:
    world = World(folder)
    world.delivery = UploadedDelivery(place.site, ServedDelivery(FileExports(Fuse(0))), step=MIB)  # type: ignore
    failover = FailoverId("0f0c1f6e-0f3a-4c55-9d0a-0123456789ab")
    world.consignment = replace(
        world.consignment, folder=folder / "failovers" / failover, firmware=Firmware.UEFI, boot=DiskNumber(2)
    )
    return world, failover


def send(world: World) -> None:
    """Deliver, and send what was delivered."""
    world.deliver()
    assert isinstance(world.delivery, UploadedDelivery)
    world.delivery.send(world.consignment, world.watch)


def blob(place: AzurePlace, failover: str, number: int) -> bytes:
    (disk,) = [one for one in kept(place, "disks", failover) if one["name"].endswith(f"disk{number}")]
    data: bytes = place.served.double.known.blobs.direct(disk["properties"]["uniqueId"]).download_blob().readall()
    return data


def test_a_point_arrives_on_managed_disks(place: AzurePlace, tmp_path: Path) -> None:
    world, failover = upload_world(place, tmp_path)
    world.cancel_at = 0.3
    with pytest.raises(Cancelled):
        send(world)
    world.cancel_at = 2.0
    for _ in range(2):
        send(world)
        for number, size in SIZES.items():
            data = blob(place, failover, number)
            assert data[:size] == bytes(world.machine.disks[number])
            assert not any(data[size:-512])
            assert len(data) == max(rounded(size), 20 * MIB) + 512
    assert world.delivery.stands(world.consignment.folder)
    first, second = sorted(kept(place, "disks", failover), key=lambda one: str(one["name"]))
    assert second["properties"]["hyperVGeneration"] == "V2", "the disk to start from"
    assert "hyperVGeneration" not in first["properties"]
    world.delivery.withdraw(world.consignment.folder)
    assert not kept(place, "disks", failover)
    assert not world.delivery.stands(world.consignment.folder)
    with pytest.raises(NotFound, match="is missing"):
        world.delivery.restore(world.consignment)


def test_what_was_prepared_is_what_arrives(place: AzurePlace, tmp_path: Path) -> None:
    """Over overlays, of which nothing is left; the point stays as it was."""
    world, failover = upload_world(place, tmp_path)
    world.deliver()
    at_hand = world.delivery.at_hand(world.consignment)
    assert sorted(at_hand) == sorted(SIZES)
    folder = world.consignment.folder
    devices = open_devices(export_settings(world.consignment))
    for device in devices.values():
        device.write(4096, memoryview(b"prepared" * 64))
        device.close()
    world.cancel_at = 0.3
    with pytest.raises(Cancelled):
        send(world)
    assert (folder / "disk-0").exists()
    world.cancel_at = 2.0
    for _ in range(2):
        send(world)
        for number, size in SIZES.items():
            expected = bytearray(world.machine.disks[number])
            expected[4096 : 4096 + 512] = b"prepared" * 64
            assert blob(place, failover, number)[:size] == expected
        assert not list(folder.glob("disk-*"))
        assert not (folder / "serving").exists()


def test_a_test_machine_is_shut_in_and_production_is_not(place: AzurePlace) -> None:
    nics = (NicDescription("eth0", "52:54:00:00:00:01", ("192.168.7.20/24",)),)
    order = place.order()
    order = replace(order, machine=replace(order.machine, nics=nics))
    place.site.create(order)
    (network,) = kept(place, "virtualNetworks", order.failover)
    (subnet,) = network["properties"]["subnets"]
    assert subnet["properties"] == {"addressPrefix": "192.168.7.0/24", "defaultOutboundAccess": False}
    assert "virtualNetworkPeerings" not in network["properties"]
    (group,) = kept(place, "networkSecurityGroups", order.failover)
    rules = [one["properties"] for one in group["properties"]["securityRules"]]
    assert {(one["direction"], one["access"], one["destinationAddressPrefix"]) for one in rules} == {
        ("Inbound", "Deny", "*"),
        ("Outbound", "Deny", "*"),
    }
    assert place.site.start(order.failover).address == "192.168.7.20"

    real = place.order(isolated=False, networks={0: SERVERS})
    real = replace(
        real,
        machine=replace(real.machine, nics=(NicDescription("eth0", "52:54:00:00:00:01", ("10.20.0.77/24",)),)),
        tags={"owner": "sales"},
    )
    place.site.check(real)
    place.site.create(real)
    assert place.site.start(real.failover).address == "10.20.0.77"
    (card,) = kept(place, "networkInterfaces", real.failover)
    (configuration,) = card["properties"]["ipConfigurations"]
    assert configuration["properties"]["subnet"]["id"].endswith("/production/subnets/servers")
    assert card["tags"]["owner"] == "sales"
    assert not kept(place, "virtualNetworks", real.failover)


def test_machines_of_one_test_network_share_it_and_it_goes_with_the_last(place: AzurePlace) -> None:
    orders = [place.order(bubble="drill") for _ in range(2)]
    for order in orders:
        place.site.create(order)
        place.site.start(order.failover)
    networks = [path for path, _ in place.served.double.known.of("virtualNetworks") if "fs-net-drill" in path]
    assert len(networks) == 1
    for number, order in enumerate(orders):
        place.site.destroy(order.failover)
        left = [path for path, _ in place.served.double.known.of("virtualNetworks") if "fs-net-drill" in path]
        assert len(left) == 1 - number


def test_the_size_fits_or_is_the_one_that_was_chosen(place: AzurePlace) -> None:
    def size_of(order: RecoveryOrder) -> str:
        place.site.create(order)
        place.site.start(order.failover)
        machine = place.machine(order.failover)
        assert machine is not None
        return str(machine["properties"]["hardwareProfile"]["vmSize"])

    order = place.order()
    assert size_of(order) == "Standard_B1s"
    larger = place.order()
    assert size_of(replace(larger, machine=replace(larger.machine, processors=3))) == "Standard_D4s_v5"
    assert size_of(place.order(tags={SIZE: "Standard_D2s_v5"})) == "Standard_D2s_v5"
    with pytest.raises(Refused, match="lacks generation V1"):
        place.site.check(place.order(tags={SIZE: "Standard_DC2s_v3"}))
    huge = place.order()
    with pytest.raises(Refused, match="No size"):
        place.site.check(replace(huge, machine=replace(huge.machine, processors=999)))
    with pytest.raises(Refused, match="There is no subnet nowhere"):
        place.site.check(place.order(isolated=False, networks={0: AttachedNetwork(NetworkKind.NETWORK, "nowhere")}))
    with pytest.raises(Refused, match="on a bridge"):
        place.site.check(place.order(isolated=False, networks={0: AttachedNetwork(NetworkKind.BRIDGE, "br0")}))


@pytest.mark.parametrize("kind", ["429", "409", "retryable", "500"])
def test_what_passes_is_waited_out(place: AzurePlace, kind: str) -> None:
    order, faults = place.order(), place.served.double.faults
    faults.order("PUT", kind, 2)
    if kind in ("429", "500"):
        faults.order("operations/", kind)
        faults.order("GET /subscriptions", kind)
    place.site.create(order)
    faults.order("virtualMachines", "429", 1)
    assert place.site.start(order.failover).condition is Condition.RUNNING


def test_what_is_not_known_everywhere_yet_is_asked_for_again(place: AzurePlace) -> None:
    order = place.order()
    place.served.double.known.lag["/networksecuritygroups/"] = 2
    place.served.double.known.lag["/networkinterfaces/"] = 2
    place.site.create(order)
    place.served.double.known.lag["/virtualmachines/"] = 1
    place.site.start(order.failover)
    assert place.site.start(order.failover).condition is Condition.RUNNING
    assert place.living(order.failover) == 1


@pytest.mark.parametrize(
    ("kind", "error", "remedy"),
    [
        ("403", Forbidden, "that right"),
        ("quota", Refused, "quota"),
        ("sku", TryLater, "another size"),
    ],
)
def test_an_error_is_ours_and_says_what_to_do(
    place: AzurePlace, kind: str, error: type[FarshoreError], remedy: str
) -> None:
    order = place.order()
    place.site.create(order)
    place.served.double.faults.order("PUT /subscriptions", kind)
    with pytest.raises(error) as raised:
        place.site.start(order.failover)
    assert remedy in raised.value.remedy
    assert place.site.status(order.failover).condition is Condition.STOPPED
    assert place.site.start(order.failover).condition is Condition.RUNNING


def test_a_machine_that_found_no_room_is_tried_again(place: AzurePlace) -> None:
    order = place.order()
    place.site.create(order)
    place.served.double.faults.failing.append("/virtualmachines/")
    with pytest.raises(TryLater, match="AllocationFailed"):
        place.site.start(order.failover)
    assert place.site.status(order.failover).condition is Condition.STOPPED
    assert place.site.start(order.failover).condition is Condition.RUNNING
    place.site.stop(order.failover, grace=0)
    place.served.double.known.cores = 0
    other = place.order()
    place.site.create(other)
    with pytest.raises(Refused, match="quota"):
        place.site.start(other.failover)


def test_a_token_that_ends_in_the_middle_is_renewed(place: AzurePlace) -> None:
    order, double = place.order(), place.served.double
    before = double.logins
    double.faults.order("PUT /subscriptions", "401")
    place.site.create(order)
    assert double.logins > before


def test_a_wrong_secret_is_named(place: AzurePlace, tmp_path: Path) -> None:
    settings = AzureSettings.model_validate(place.served.settings)
    with pytest.raises(Unauthenticated, match="AADSTS7000215") as raised:
        place.keep(AzureSite(tmp_path, settings, secret=b"not-the-secret")).status(FailoverId("f1"))
    assert "secret" in raised.value.remedy
    assert "not-the-secret" not in str(raised.value)


def test_an_operation_is_taken_up_by_its_token(place: AzurePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    order, double = place.order(), place.served.double
    place.site.create(order)

    class Killed(BaseException):
        """The process is gone."""

    kept_notes: list[dict[str, str]] = []
    note = long_operations._note

    def note_and_die(path: Path, content: dict[str, str]) -> None:
        note(path, content)
        kept_notes.append(content)
        if content["token"]:
            raise Killed

    monkeypatch.setattr(long_operations, "_note", note_and_die)
    with pytest.raises(Killed):
        place.site.start(order.failover)
    monkeypatch.undo()
    double.faults.seen.clear()
    where = place.folder / order.failover / "operation.json"
    assert where.exists()
    clients = place.site._clients
    assert isinstance(clients.compute, ComputeManagementClient)

    def begin(**more: object) -> object:
        return clients.compute.virtual_machines.begin_create_or_update(
            "recovery", machine_name(order.failover), {}, **more
        )

    made = long_operations.carried_out(where, kept_notes[-1]["purpose"], begin)
    assert made.properties.provisioning_state == "Succeeded"
    assert not [line for line in double.faults.seen if line.startswith("PUT")], "nothing was asked for twice"
    assert not where.exists()


def test_api_versions_are_pinned(place: AzurePlace) -> None:
    order = place.order()
    place.site.create(order)
    place.site.start(order.failover)
    place.site.examine()
    seen = 0
    for path, version in place.served.double.faults.versions.items():
        found = re.search(r"/providers/([\w.]+/\w+)", path)
        if found and "/operations/" not in path and "/results/" not in path:
            assert version == VERSIONS[found[1]], path
            seen += 1
    assert seen > 5


def test_the_site_is_examined(place: AzurePlace, tmp_path: Path) -> None:
    told = place.site.examine()
    assert told["virtual network"] == "production: servers (10.20.0.0/24)"
    assert "sizes" in told["region"]
    assert told["cores"].endswith("of 100 free")

    def with_settings(**changes: str) -> AzureSite:
        known = {**place.served.settings, **changes}
        return place.keep(AzureSite(tmp_path, AzureSettings.model_validate(known), secret=place.served.secret))

    with pytest.raises(Refused, match="no virtual network other") as raised:
        with_settings(virtual_network="other").examine()
    assert raised.value.remedy.startswith("az network vnet create")
    with pytest.raises(Refused, match="offers the subscription no size"):
        with_settings(region="nowhere").examine()
    place.served.double.faults.order("GET /subscriptions", "403")
    with pytest.raises(Forbidden):
        place.site.examine()


def test_the_console_and_the_hardware_id(place: AzurePlace) -> None:
    order = place.order()
    place.site.create(order)
    place.site.start(order.failover)
    place.site.trim_console(order.failover)
    assert b"login:" in place.site.console(order.failover).read_bytes()
    machine = place.machine(order.failover)
    assert machine is not None
    shown = place.site.hardware_id(order.failover)
    unique = machine["properties"]["vmId"]
    assert shown[19:] == unique[19:]
    assert bytes.fromhex(shown[:8])[::-1].hex() == unique[:8], "its firmware of the first generation shows it so"
