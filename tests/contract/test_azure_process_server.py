"""The temporary process server beside a recovered machine at Azure, by the double of Resource Manager."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from tests.azure.resources import Resource
from tests.contract.azure_place import AzurePlace, azure_place
from tests.contract.conftest import Double

from farshore.model.errors import NotFound, Refused, TryLater
from farshore.model.target import NetworkKind
from farshore.sites.azure import long_operations
from farshore.sites.azure.names import MARK, SERVER, server_name
from farshore.sites.azure.settings import AzureSettings
from farshore.sites.azure.site import AzureSite
from farshore.sites.port import AttachedNetwork, Condition, FailoverId, Hosting, ServerOrder

SERVERS = AttachedNetwork(NetworkKind.NETWORK, "servers")
TEXT = '#cloud-config\n{"runcmd": []}\n'


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
    for failover in place.site.present():
        place.site.destroy(failover)
        place.site.discard(failover)


@pytest.fixture
def failover(place: AzurePlace) -> FailoverId:
    """A recovered machine that runs on a subnet."""
    order = place.order(isolated=False, networks={0: SERVERS})
    place.site.create(order)
    place.site.start(order.failover)
    return order.failover


def server(place: AzurePlace, failover: FailoverId) -> Resource | None:
    every = place.served.double.known.held.items()
    return next((one for path, one in every if path.endswith(f"/virtualmachines/{server_name(failover)}")), None)


def parts(place: AzurePlace, failover: FailoverId) -> set[str]:
    """All that is there of the server."""
    return {path.rpartition("/")[2] for path in place.served.double.known.held if server_name(failover) in path}


def test_a_server_is_made_beside_the_machine_and_goes_without_it(place: AzurePlace, failover: FailoverId) -> None:
    assert isinstance(place.site, Hosting)
    before = set(place.served.double.known.held)
    address = place.site.room(failover)
    assert address.startswith("10.20.0.")
    assert place.site.room(failover) == address
    assert place.site.revive(failover) == ""
    order = ServerOrder(failover, "first", TEXT)
    assert "runcmd" not in repr(order)
    for _ in range(2):
        place.site.launch(order)
        assert place.site.revive(failover) == "first"
    made = server(place, failover)
    assert made is not None
    assert made["power"] == "running"
    assert made["tags"][SERVER] == failover
    profile = place.served.double.known.once[made["id"].lower()]
    assert base64.b64decode(profile["customData"]).decode() == TEXT
    assert made["properties"]["storageProfile"]["imageReference"]["offer"] == "debian-12"
    group = place.served.double.known.referred(
        place.served.double.known.referred(made["properties"]["networkProfile"]["networkInterfaces"][0])["properties"][
            "networkSecurityGroup"
        ]
    )
    rules = [one["properties"] for one in group["properties"]["securityRules"]]
    assert [(one["sourceAddressPrefix"], one["destinationPortRange"], one["access"]) for one in rules] == [
        ("VirtualNetwork", "9443", "Allow"),
        ("*", "*", "Deny"),
    ]
    assert parts(place, failover) == {server_name(failover, part) for part in ("", "nic", "nsg", "os")}
    for _ in range(2):
        place.site.dismiss(failover)
        assert set(place.served.double.known.held) == before
    assert place.site.status(failover).condition is Condition.RUNNING


def test_one_of_another_order_replaces_it_and_one_that_was_stopped_is_started(
    place: AzurePlace, failover: FailoverId
) -> None:
    address = place.site.room(failover)
    place.site.launch(ServerOrder(failover, "first", TEXT))
    made = server(place, failover)
    assert made is not None
    made["power"] = "deallocated"
    assert place.site.revive(failover) == "first"
    assert made["power"] == "running"
    place.site.launch(ServerOrder(failover, "second", TEXT + "\n"))
    made = server(place, failover)
    assert made is not None
    assert made["tags"][MARK] == "second"
    assert place.site.room(failover) == address


def test_it_goes_with_the_machine_and_is_seen_by_a_clean_up(place: AzurePlace, failover: FailoverId) -> None:
    place.site.room(failover)
    place.site.launch(ServerOrder(failover, "first", TEXT))
    place.served.double.known.held[f"{server(place, failover)['id'].lower()}"]["tags"].pop(MARK)  # type: ignore[index]
    assert failover in place.site.present()
    place.site.destroy(failover)
    assert parts(place, failover) == set()
    assert place.left(failover) == []


def test_a_disk_that_outlived_its_machine_goes_too(place: AzurePlace, failover: FailoverId) -> None:
    place.site.room(failover)
    place.site.launch(ServerOrder(failover, "first", TEXT))
    made = server(place, failover)
    assert made is not None
    made["properties"]["storageProfile"]["osDisk"]["deleteOption"] = "Detach"
    place.site.dismiss(failover)
    assert parts(place, failover) == set()


def test_a_machine_whose_network_leads_nowhere_has_no_server(place: AzurePlace) -> None:
    order = place.order()
    place.site.create(order)
    with pytest.raises(Refused, match="leads out") as raised:
        place.site.room(order.failover)
    assert "--network network:" in raised.value.remedy
    with pytest.raises(NotFound):
        place.site.room(FailoverId("00000000-0000-4000-8000-000000000000"))
    with pytest.raises(NotFound, match="card"):
        place.site.launch(ServerOrder(order.failover, "first", TEXT))


def test_a_launch_that_was_killed_is_taken_up_again(
    place: AzurePlace, failover: FailoverId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Azure has taken the request, and does not show the machine yet."""
    place.site.room(failover)
    note = long_operations._note

    class Killed(BaseException):
        """The process is gone."""

    def note_and_die(path, content):  # type: ignore[no-untyped-def]
        note(path, content)
        if content["token"]:
            raise Killed

    monkeypatch.setattr(long_operations, "_note", note_and_die)
    with pytest.raises(Killed):
        place.site.launch(ServerOrder(failover, "first", TEXT))
    monkeypatch.undo()
    place.served.double.known.lag[server_name(failover)] = 1
    assert place.site.revive(failover) == "first", "no other order is to be made"
    assert place.site.revive(failover) == "first"
    place.site.dismiss(failover)
    assert place.site.revive(failover) == ""


@pytest.mark.parametrize("kind", ["429", "409", "500"])
def test_what_passes_is_waited_out(place: AzurePlace, failover: FailoverId, kind: str) -> None:
    place.served.double.faults.order("PUT", kind, 2)
    place.site.room(failover)
    place.served.double.faults.order("PUT", kind, 1)
    place.site.launch(ServerOrder(failover, "first", TEXT))
    place.served.double.faults.order("DELETE", kind, 2)
    place.site.dismiss(failover)
    assert parts(place, failover) == set()


def test_one_that_found_no_room_is_made_anew(place: AzurePlace, failover: FailoverId) -> None:
    place.site.room(failover)
    place.served.double.faults.failing.append(f"/virtualmachines/{server_name(failover)}")
    with pytest.raises(TryLater, match="AllocationFailed"):
        place.site.launch(ServerOrder(failover, "first", TEXT))
    assert place.site.revive(failover) == ""
    place.site.launch(ServerOrder(failover, "second", TEXT))
    assert place.site.revive(failover) == "second"


def test_settings_say_what_it_is(place: AzurePlace, failover: FailoverId) -> None:
    def with_settings(**changes: object) -> AzureSite:
        known = {**place.served.settings, **changes}
        return place.keep(AzureSite(place.folder, AzureSettings.model_validate(known), secret=place.served.secret))

    assert with_settings(process_server="own").software is None
    site = with_settings(
        storage_account="farshorevault", process_server_identity="servers", process_server_public=True,
        process_server_image="Canonical:ubuntu-24_04-lts:server:latest", process_server_size="Standard_D4s_v5",
    )  # fmt: skip
    assert site.software is not None
    assert site.software.environment == {"AZURE_STORAGE_ACCOUNT_NAME": "farshorevault"}
    assert site.software.package.startswith("farshore[server,azure] @ https://")
    with pytest.raises(Refused, match="does not name the package"):
        with_settings(process_server_package="").room(failover)
    assert server(place, failover) is None
    site.room(failover)
    site.launch(ServerOrder(failover, "first", TEXT))
    made = server(place, failover)
    assert made is not None
    (identity,) = made["identity"]["userAssignedIdentities"]
    assert identity.endswith("/userAssignedIdentities/servers")
    assert made["properties"]["hardwareProfile"]["vmSize"] == "Standard_D4s_v5"
    assert server_name(failover, "ip") in parts(place, failover)
    assert "login" in site.server_console(failover)
    with pytest.raises(Refused, match="does not offer the size"):
        with_settings(process_server_size="Standard_X").launch(ServerOrder(failover, "second", TEXT))
    template = site.template()
    assert "userAssignedIdentities/assign/action" in template
    assert "servers.properties.principalId" in template
    assert "userAssignedIdentities" not in place.site.template()
