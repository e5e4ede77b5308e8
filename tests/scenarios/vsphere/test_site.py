"""The vSphere site at a simulated vCenter: machines made and sent their disks, brought home onto the disks that they
left, and nothing left behind whatever fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pyVmomi import vim
from tests.contract.guests import POLITE, SIZE, image
from tests.contract.places import an_order, vsphere_settings
from tests.scenarios.vsphere.test_discovery import login_to
from tests.vcenter.running import PASSWORD, Vcenter, vcenter

from farshore.model.errors import FarshoreError, Forbidden, Refused, TryLater
from farshore.model.target import NetworkKind
from farshore.sites.port import AttachedDisk, AttachedNetwork, Condition, FailoverId, RecoveryOrder, WrittenDisk
from farshore.sites.vsphere.site import VsphereSite
from farshore.vsphere import power
from farshore.vsphere.certificates import look
from farshore.vsphere.session import session

PROXY, SOURCE = "DC0_C0_RP0_VM0", "DC0_C0_RP0_VM1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vcenter]:
    with vcenter(tmp_path_factory.mktemp("vcenter"), 2, proxy=PROXY) as running:
        yield running


@pytest.fixture
def site(server: Vcenter, tmp_path: Path) -> Iterator[VsphereSite]:
    made = open_site(server, tmp_path)
    yield made
    server.allow()
    for failover in made.present():
        made.destroy(failover)
    assert sorted(machines(server)) == [PROXY, SOURCE]


def open_site(server: Vcenter, folder: Path, **more: str) -> VsphereSite:
    fingerprint = look(server.host, server.port).fingerprint
    return VsphereSite(folder / "site", vsphere_settings(server.port, fingerprint, **more), PASSWORD)


def attaching(server: Vcenter, folder: Path) -> VsphereSite:
    return open_site(server, folder, proxy=PROXY, devices=str(server.devices))


def machines(server: Vcenter) -> dict[str, vim.VirtualMachine]:
    """By name; to be looked at within ``inside``."""
    with session(login_to(server)) as opened:
        return {str(one.name): one for one in opened.content.rootFolder.childEntity[0].vmFolder.childEntity}


def an_order_at(folder: Path, **changes: object) -> RecoveryOrder:
    return an_order(lambda failover: WrittenDisk(image(folder / failover, POLITE)), **changes)


def bytes_of(server: Vcenter, name: str) -> list[bytes]:
    """What is on a machine's disks, as its datastore has it."""
    with session(login_to(server)) as opened:
        (found,) = (one for one in opened.content.rootFolder.childEntity[0].vmFolder.childEntity if one.name == name)
        stores = {one.name: Path(one.info.url) for one in found.datastore}
        files = [
            one.backing.fileName for one in found.config.hardware.device if isinstance(one, vim.vm.device.VirtualDisk)
        ]
    parts = [file.removeprefix("[").split("] ", 1) for file in files]
    return [(stores[store] / path.replace(".vmdk", "-flat.vmdk")).read_bytes() for store, path in parts]


def name_of(order: RecoveryOrder) -> str:
    return f"{order.name} ({order.failover[:8]})"


def test_a_machine_is_made_as_ordered_with_its_disks_sent(server: Vcenter, site: VsphereSite, tmp_path: Path) -> None:
    order = an_order_at(
        tmp_path, networks={0: AttachedNetwork(NetworkKind.NETWORK, "DC0_DVPG0")}, tags={"owner": "ann"}
    )
    site.create(order)
    with session(login_to(server)) as opened:
        centre = opened.content.rootFolder.childEntity[0]
        (found,) = (one for one in centre.vmFolder.childEntity if one.name == name_of(order))
        assert (found.config.uuid, found.config.hardware.memoryMB) == (order.failover, 64)
        (card,) = (one for one in found.config.hardware.device if isinstance(one, vim.vm.device.VirtualVmxnet3))
        assert (card.macAddress, card.addressType, card.connectable.startConnected) == (
            order.machine.nics[0].mac, "manual", True,
        )  # fmt: skip
        assert any(isinstance(one, vim.vm.device.ParaVirtualSCSIController) for one in found.config.hardware.device)
        assert {one.key: one.value for one in found.config.extraConfig}["farshore.tag.owner"] == "ann"
    assert bytes_of(server, name_of(order)) == [(tmp_path / order.failover).read_bytes()]
    assert site.hardware_id(order.failover) == order.failover
    assert not list((tmp_path / "site" / order.failover).glob("import-*")), "what was only sent is not kept"


@pytest.mark.parametrize("method", ["ImportVApp", "NFC", "HttpNfcLeaseComplete", "RetrievePropertiesEx", "FindByUuid"])
@pytest.mark.parametrize("kind", ["busy", "drop", "half", "NotAuthenticated", "NoPermission"])
def test_what_fails_in_making_one_leaves_nothing_and_may_be_repeated(
    server: Vcenter, site: VsphereSite, tmp_path: Path, method: str, kind: str
) -> None:
    if method == "NFC" and kind not in ("busy", "drop"):
        return  # no SOAP there
    order = an_order_at(tmp_path)
    server.fault(method, kind)
    with pytest.raises((TryLater, Forbidden)) as raised:
        site.create(order)
    assert raised.value.remedy
    server.fault(method, kind, times=0)
    assert site.status(order.failover).condition is Condition.ABSENT
    assert sorted(machines(server)) == [PROXY, SOURCE]
    site.create(order)
    assert bytes_of(server, name_of(order)) == [(tmp_path / order.failover).read_bytes()]


@pytest.mark.parametrize("method", ["PowerOnVM_Task", "ReconfigVM_Task"])
@pytest.mark.parametrize("kind", ["busy", "drop", "half", "NotAuthenticated", "task:InsufficientResourcesFault"])
def test_a_start_that_fails_may_be_repeated(
    server: Vcenter, site: VsphereSite, tmp_path: Path, method: str, kind: str
) -> None:
    order = an_order_at(tmp_path)
    site.create(order)
    server.fault(method, kind)
    if (method, kind) == ("PowerOnVM_Task", "half"):  # it was carried out, which is seen
        site.start(order.failover)
    else:
        with pytest.raises(FarshoreError) as raised:
            site.start(order.failover)
        assert raised.value.remedy
    server.fault(method, kind, times=0)
    assert site.start(order.failover).condition is Condition.RUNNING
    site.stop(order.failover, grace=0)


def test_orders_that_vsphere_cannot_do(server: Vcenter, site: VsphereSite, tmp_path: Path) -> None:
    order = an_order_at(tmp_path)
    (disk,) = order.disks
    for impossible, why in (
        (replace(order, bubble="lab"), "Test networks such as"),
        (replace(order, disks=(replace(disk, logical_block_size=4096),)), "4096"),
        (replace(order, disks=(replace(disk, size=SIZE + 512),)), "64 KiB"),
        (replace(order, networks={0: AttachedNetwork(NetworkKind.BRIDGE, "br0")}), "DC0_DVPG0"),
    ):
        with pytest.raises(Refused) as raised:
            site.check(impossible)
        assert why in str(raised.value)


def test_what_the_account_lacks_and_names_that_are_not_there(
    server: Vcenter, site: VsphereSite, tmp_path: Path
) -> None:
    assert site.examine()["disks"] == "sent by the server's import"
    server.deny("VApp.Import")
    with pytest.raises(Refused, match=r"VApp\.Import"):
        site.examine()
    server.allow()
    for setting, there in (("datastore", "LocalDS_0"), ("network", "VM Network"), ("cluster", "DC0_C0")):
        with pytest.raises(Refused, match=there):
            open_site(server, tmp_path, **{setting: "nowhere"}).examine()
    with pytest.raises(FarshoreError, match="no machine 'nowhere'"):
        open_site(server, tmp_path, proxy="nowhere").examine()


def source_uuid(server: Vcenter) -> str:
    with session(login_to(server)) as opened:
        found = _source(opened)
        return str(found.config.uuid)


def _source(opened: object) -> vim.VirtualMachine:
    centre = opened.content.rootFolder.childEntity[0]  # type: ignore[attr-defined]
    return next(one for one in centre.vmFolder.childEntity if one.name == SOURCE)


def homeward(order: RecoveryOrder, uuid: str, sizes: tuple[int, ...]) -> RecoveryOrder:
    nowhere = WrittenDisk(Path("/nowhere"))
    disks = tuple(AttachedDisk(number, size, nowhere, boot=not number) for number, size in enumerate(sizes))
    return replace(order, home=True, machine=replace(order.machine, hardware_id=uuid), disks=disks)


def taken(order: RecoveryOrder, paths: dict[int, Path]) -> RecoveryOrder:
    disks = tuple(replace(disk, medium=WrittenDisk(paths[disk.number])) for disk in order.disks)
    return replace(order, disks=disks)


def attached(server: Vcenter) -> list[str]:
    return sorted(one.name for one in server.devices.iterdir())


@pytest.fixture
def off(server: Vcenter) -> str:
    """The source is off and marked; its UUID."""
    with session(login_to(server)) as opened:
        found = _source(opened)
        power.power_off(opened, found._moId)
        power.mark(opened, found._moId, "Kept off.")
        return str(found.config.uuid)


def test_a_machine_comes_home_onto_the_disks_that_it_left(server: Vcenter, off: str, tmp_path: Path) -> None:
    own = attached(server)
    site = attaching(server, tmp_path)
    # A second disk is new: the machine had one of 1 MiB, as the simulator makes it.
    order = homeward(an_order_at(tmp_path), off, (1 << 20, 2 << 20))
    paths = dict(site.attach(order))
    assert dict(site.attach(order)) == paths
    assert len(attached(server)) == len(own) + 2
    paths[0].write_bytes(b"A" * (1 << 20))
    paths[1].write_bytes(b"B" * (2 << 20))
    order = taken(order, paths)
    for _ in range(2):
        site.create(order)
        assert attached(server) == own, "they are the machine's alone"
    assert site.start(order.failover).condition is Condition.RUNNING
    assert site.hardware_id(order.failover) == off
    assert bytes_of(server, SOURCE) == [b"A" * (1 << 20), b"B" * (2 << 20)]
    assert site.present() == (order.failover,)
    with session(login_to(server)) as opened:
        assert power.mark_of(opened, _source(opened)._moId) == ""
    site.destroy(order.failover)
    assert site.present() == ()
    assert [len(one) for one in bytes_of(server, SOURCE)] == [1 << 20], "it has what it had"
    assert sorted(machines(server)) == [PROXY, SOURCE]


def test_one_of_which_nothing_is_left_is_made_anew(server: Vcenter, tmp_path: Path) -> None:
    own = attached(server)
    site = attaching(server, tmp_path)
    uuid = "564d1122-3344-5566-7788-99aabbccddee"
    order = homeward(an_order_at(tmp_path), uuid, (SIZE,))
    paths = dict(site.attach(order))
    paths[0].write_bytes(b"C" * SIZE)
    site.create(taken(order, paths))
    assert (attached(server), bytes_of(server, name_of(order))) == (own, [b"C" * SIZE])
    assert site.hardware_id(order.failover) == uuid
    site.destroy(order.failover)
    assert sorted(machines(server)) == [PROXY, SOURCE]


def test_one_that_runs_or_has_snapshots_is_not_written_to(server: Vcenter, off: str, tmp_path: Path) -> None:
    site = attaching(server, tmp_path)
    order = homeward(an_order_at(tmp_path), off, (1 << 20,))
    with session(login_to(server)) as opened:
        _source(opened).PowerOnVM_Task()
        with pytest.raises(Refused, match="is not off"):
            site.attach(order)
        _source(opened).PowerOffVM_Task()
        _source(opened).CreateSnapshot_Task("before", "", False, False)
        with pytest.raises(Refused, match="has snapshots"):
            site.attach(order)
        _source(opened).RemoveAllSnapshots_Task()
    site.destroy(order.failover)


@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.parametrize("kind", ["busy", "half", "task:InsufficientResourcesFault"])
def test_a_way_home_that_fails_anywhere_leaves_nothing(
    server: Vcenter, off: str, tmp_path: Path, at: int, kind: str
) -> None:
    own, site = attached(server), attaching(server, tmp_path)
    order = homeward(an_order_at(tmp_path), off, (1 << 20, 2 << 20))
    server.fault("ReconfigVM_Task", kind, after=at - 1)
    failed = False
    try:
        paths = dict(site.attach(order))
        site.create(taken(order, paths))
    except FarshoreError as error:
        failed = bool(error.remedy)
    server.fault("ReconfigVM_Task", kind, times=0)
    site.destroy(order.failover)
    assert (attached(server), site.present()) == (own, ())
    assert [len(one) for one in bytes_of(server, SOURCE)] == [1 << 20]
    assert failed or at == 5, "there are fewer calls than that"
    assert FailoverId(order.failover) not in site.present()
