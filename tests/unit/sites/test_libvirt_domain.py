"""A recovered machine as libvirt's XML."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.unit.sites.test_command import FAILOVER, MACHINE, ORDER, served

from farshore.model.errors import Refused
from farshore.model.machine import Firmware, NicDescription
from farshore.model.target import DiskBus, NetworkKind
from farshore.sites.libvirt.domain import MARK, Surroundings, check_order, document
from farshore.sites.port import AttachedDisk, AttachedNetwork, RecoveryOrder, ServedDisk, TcpAddress, WrittenDisk

CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
AROUND = Surroundings("tcg", 2, 1 << 40, CODE, Path("/s/console.log"), Path("/s/uefi-variables.fd"), Path("/s"))
ARGUMENT = "{http://libvirt.org/schemas/domain/qemu/1.0}arg"


def made(order: RecoveryOrder = ORDER, around: Surroundings = AROUND) -> Any:
    return ElementTree.fromstring(document(order, "db1", around))


def arguments(domain: Any) -> list[str]:
    return [one.get("value") for one in domain.iter(ARGUMENT)]


def test_the_domain_is_the_failover_s_and_says_so() -> None:
    domain = made(replace(ORDER, tags={"owner": "dba & co"}))
    assert domain.findtext("uuid") == FAILOVER
    mark = domain.find(f"metadata/{{{MARK}}}failover")
    assert mark.get("id") == FAILOVER
    assert [(tag.get("name"), tag.text) for tag in mark] == [("owner", "dba & co")]
    assert "the-source" not in document(ORDER, "db1", AROUND)


def test_cards_of_a_test_network_lead_to_it_and_nowhere_else() -> None:
    said = " ".join(arguments(made(replace(ORDER, bubble="lab", isolated=True))))
    assert "stream,id=net0,server=off,addr.type=unix,addr.path=/s/cable-0" in said
    assert "user," not in said
    assert "hostfwd" not in said


def test_disks_flush_and_pause_rather_than_fail() -> None:
    first, second = made().findall("devices/disk")
    for disk in (first, second):
        driver = disk.find("driver").attrib
        assert (driver["error_policy"], driver["rerror_policy"], driver["cache"]) == ("stop", "stop", "writeback")
    assert (first.find("source").get("protocol"), first.find("source").get("name")) == ("nbd", "0")
    assert first.find("source/host").get("socket") == "/run/x/nbd.sock"
    assert (first.findtext("serial"), first.find("boot").get("order")) == ("a" * 20, "1")
    assert second.find("blockio").get("logical_block_size") == "4096"
    assert second.find("boot") is None
    path = Path("/var/x/disk-1.raw")
    (written,) = made(replace(ORDER, disks=(AttachedDisk(1, 1 << 30, WrittenDisk(path)),))).findall("devices/disk")
    assert written.find("source").get("file") == str(path)


@pytest.mark.parametrize(
    ("bus", "name", "device", "controller"),
    [
        (DiskBus.VIRTIO, "virtio", "vda", None),
        (DiskBus.SATA, "sata", "sda", None),
        (DiskBus.VIRTIO_SCSI, "scsi", "sda", "virtio-scsi"),
        (DiskBus.PVSCSI, "scsi", "sda", "vmpvscsi"),
    ],
)
def test_disks_hang_on_the_bus_that_was_chosen(bus: DiskBus, name: str, device: str, controller: str | None) -> None:
    domain = made(replace(ORDER, disk_bus=bus, disks=(AttachedDisk(0, 1 << 30, served("0")),)))
    assert domain.find("devices/disk/target").attrib == {"dev": device, "bus": name}
    found = domain.find("devices/controller")
    assert (None if found is None else found.get("model")) == controller


def test_many_disks_have_names_of_their_own() -> None:
    disks = tuple(AttachedDisk(number, 1 << 30, served(str(number))) for number in range(30))
    names = [target.get("dev") for target in made(replace(ORDER, disks=disks)).iter("target") if target.get("dev")]
    assert (names[0], names[25], names[26], len(set(names))) == ("vda", "vdz", "vdaa", 30)


def test_a_card_leads_nowhere_unless_it_was_chosen_to() -> None:
    nics = tuple(NicDescription(f"eth{number}", f"52:54:00:00:00:0{number}") for number in range(3))
    networks = {1: AttachedNetwork(NetworkKind.BRIDGE, "br0"), 2: AttachedNetwork(NetworkKind.NETWORK, "prod")}
    domain = made(replace(ORDER, machine=replace(MACHINE, nics=nics), networks=networks))
    cards = domain.findall("devices/interface")
    assert [(card.get("type"), card.find("source").attrib) for card in cards] == [
        ("bridge", {"bridge": "br0"}),
        ("network", {"network": "prod"}),
    ]
    backend, card = arguments(domain)[1::2]
    assert "restrict=on" in backend
    assert "hostfwd=tcp:127.0.0.1:2222-:22" in backend
    assert "mac=52:54:00:00:00:00" in card


def test_a_uefi_machine_has_variables_of_its_own() -> None:
    order = replace(ORDER, machine=replace(MACHINE, firmware=Firmware.UEFI))
    system = made(order).find("os")
    assert (system.findtext("loader"), system.findtext("nvram")) == (str(CODE), "/s/uefi-variables.fd")
    assert made().find("os/loader") is None
    with pytest.raises(Refused, match="UEFI"):
        check_order(order, replace(AROUND, firmware=None))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"disks": ()}, "no disk"),
        ({"machine": replace(MACHINE, architecture="aarch64")}, "aarch64"),
        ({"disks": (AttachedDisk(0, 1, ServedDisk(TcpAddress("192.0.2.1", 1), "0")),)}, "served at an address"),
        ({"disk_bus": DiskBus.SATA}, "SATA"),
        ({"networks": {0: AttachedNetwork(NetworkKind.BRIDGE, "br0")}}, "forwarded"),
        ({"machine": replace(MACHINE, nics=(NicDescription("e", ""),) * 9), "forward": {}}, "9 isolated cards"),
    ],
)
def test_what_cannot_be_built_is_refused(change: dict[str, Any], why: str) -> None:
    check_order(ORDER, AROUND)
    with pytest.raises(Refused, match=why) as raised:
        check_order(replace(ORDER, **change), AROUND)
    assert raised.value.remedy
