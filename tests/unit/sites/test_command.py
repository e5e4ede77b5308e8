"""The QEMU command line of a recovered machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from farshore.model.errors import Refused
from farshore.model.identifiers import DiskNumber
from farshore.model.machine import DiskDescription, Firmware, MachineDescription, NicDescription
from farshore.model.target import DiskBus, NetworkKind
from farshore.sites.port import (
    AttachedDisk,
    AttachedNetwork,
    FailoverId,
    RecoveryOrder,
    ServedDisk,
    TcpAddress,
    TlsAccess,
    UnixAddress,
    WrittenDisk,
)
from farshore.sites.qemu.command import Host, Lent, LentDisk, RunFiles, qemu_command

FAILOVER = FailoverId("0f5b7c1e-3c1d-4f0e-9a43-111111111111")
FILES = RunFiles(Path("/run/site") / FAILOVER)
TCG = Host("tcg", 2, Path("/usr/share/OVMF/OVMF_CODE_4M.fd"))
MACHINE = MachineDescription(
    hostname="db1",
    firmware=Firmware.BIOS,
    processors=8,
    memory=4 << 30,
    operating_system="Debian 12",
    kernel="6.1",
    architecture="x86_64",
    hardware_id="the-source",
    disks=(DiskDescription(DiskNumber(0), "vda", 1 << 30, boot=True),),
    nics=(NicDescription("eth0", "52:54:00:00:00:01"),),
)


def served(export: str) -> ServedDisk:
    return ServedDisk(UnixAddress(Path("/run/x/nbd.sock")), export)


ORDER = RecoveryOrder(
    failover=FAILOVER,
    name="db1",
    machine=MACHINE,
    disks=(
        AttachedDisk(0, 1 << 30, served("0"), serial="a" * 30, boot=True),
        AttachedDisk(1, 1 << 30, served("1"), logical_block_size=4096),
    ),
    isolated=False,
    forward={2222: 22, 5433: 5432},
)


LENT = Lent(monitor=11, console=12, variables=13, sockets={Path("/run/x/nbd.sock"): "/proc/self/fd/14/nbd.sock"})


def command(order: RecoveryOrder = ORDER, host: Host = TCG, files: RunFiles = FILES) -> list[str]:
    return qemu_command(order, files, host, LENT)


def option(name: str, found: list[str]) -> list[str]:
    return [found[at + 1] for at, word in enumerate(found) if word == name]


def test_disks_flush_and_pause_rather_than_fail() -> None:
    found = command()
    assert option("-blockdev", found) == [
        f"driver=nbd,node-name=disk{number},export={number},server.type=unix,server.path=/proc/self/fd/14/nbd.sock,"
        "discard=unmap,reconnect-delay=300"
        for number in (0, 1)
    ]
    first, second = (device for device in option("-device", found) if "virtio-blk" in device)
    for device in (first, second):
        assert "write-cache=on,rerror=stop,werror=stop" in device
    assert first.endswith(f"logical_block_size=512,physical_block_size=4096,serial={'a' * 20},bootindex=1")
    assert "logical_block_size=4096" in second
    assert "bootindex" not in second


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "vault.example"])
def test_a_disk_is_served_at_any_address(host: str) -> None:
    disk = replace(ORDER.disks[0], medium=ServedDisk(TcpAddress(host, 10809), "0"))
    (node,) = option("-blockdev", command(replace(ORDER, disks=(disk,))))
    assert node.startswith(f"driver=nbd,node-name=disk0,export=0,server.type=inet,server.host={host},server.port=10809")
    assert node.endswith(",discard=unmap,reconnect-delay=300")


def test_a_disk_over_tls_is_read_with_what_was_lent_for_it() -> None:
    access = TlsAccess(Path("/var/x/tls/client"), FAILOVER)
    disk = replace(ORDER.disks[0], medium=ServedDisk(TcpAddress("192.0.2.7", 10809, access), "0"))
    lent = replace(LENT, credentials={access.folder: "/proc/self/fd/9"})
    found = qemu_command(replace(ORDER, disks=(disk,)), FILES, TCG, lent)
    assert "tls-creds-x509,id=tls-disk0,endpoint=client,verify-peer=on,dir=/proc/self/fd/9" in option("-object", found)
    assert f",tls-creds=tls-disk0,tls-hostname={FAILOVER}," in option("-blockdev", found)[0]


@pytest.mark.parametrize(("device", "driver"), [(False, "file"), (True, "host_device")])
def test_a_written_disk_is_lent_and_pauses_the_guest_where_it_has_no_room(device: bool, driver: str) -> None:
    path = Path("/var/x/disk-1.raw")
    disk = replace(ORDER.disks[1], medium=WrittenDisk(path))
    lent = replace(LENT, disks={path: LentDisk(15, device)})
    found = qemu_command(replace(ORDER, disks=(disk,)), FILES, TCG, lent)
    assert option("-blockdev", found) == [
        f"driver=raw,node-name=disk1,discard=unmap,file.driver={driver},file.filename=/dev/fdset/11,file.discard=unmap"
    ]
    assert "fd=15,set=11" in option("-add-fd", found)
    assert str(path) not in " ".join(found)
    (made,) = (one for one in option("-device", found) if "virtio-blk" in one)
    assert "write-cache=on,rerror=stop,werror=stop" in made


@pytest.mark.parametrize(
    ("bus", "controllers", "places"),
    [
        (DiskBus.VIRTIO, [], ["virtio-blk-pci", "virtio-blk-pci"]),
        (DiskBus.SATA, [], ["ide-hd,bus=ide.0", "ide-hd,bus=ide.1"]),
        (DiskBus.VIRTIO_SCSI, ["virtio-scsi-pci,id=scsi"], ["scsi-hd,bus=scsi.0,lun=0", "scsi-hd,bus=scsi.0,lun=1"]),
        (DiskBus.PVSCSI, ["pvscsi,id=scsi"], ["scsi-hd,bus=scsi.0,scsi-id=0", "scsi-hd,bus=scsi.0,scsi-id=1"]),
    ],
)
def test_disks_hang_on_the_bus_that_was_chosen(bus: DiskBus, controllers: list[str], places: list[str]) -> None:
    disks = tuple(replace(disk, logical_block_size=512) for disk in ORDER.disks)
    devices = option("-device", command(replace(ORDER, disk_bus=bus, disks=disks)))
    assert [device for device in devices if "scsi,id" in device or "scsi-pci,id" in device] == controllers
    found = [device for device in devices if "drive=disk" in device]
    assert [device.split(",drive=")[0] for device in found] == places
    for device in found:
        assert "write-cache=on,rerror=stop,werror=stop" in device


def test_sata_has_as_many_controllers_as_it_needs_and_small_sectors_only() -> None:
    disks = tuple(AttachedDisk(number, 1 << 30, served(str(number))) for number in range(13))
    found = command(replace(ORDER, disk_bus=DiskBus.SATA, disks=disks))
    devices = option("-device", found)
    assert [device for device in devices if "ahci" in device and "drive" not in device] == [
        "ich9-ahci,id=ahci1",
        "ich9-ahci,id=ahci2",
    ]
    places = [device.split(",")[1] for device in devices if "drive=disk" in device]
    assert places == [f"bus={name}.{port}" for name in ("ide", "ahci1") for port in range(6)] + ["bus=ahci2.0"]
    with pytest.raises(Refused, match="Disk 1 of db1") as raised:
        command(replace(ORDER, disk_bus=DiskBus.SATA))
    assert "--disk-bus" in raised.value.remedy


def test_a_bus_takes_so_many_disks_and_no_more() -> None:
    disks = tuple(AttachedDisk(number, 1 << 30, served(str(number))) for number in range(65))
    with pytest.raises(Refused, match="65 disks; pvscsi takes 64"):
        command(replace(ORDER, disk_bus=DiskBus.PVSCSI, disks=disks))
    command(replace(ORDER, disk_bus=DiskBus.PVSCSI, disks=disks[:64]))


def test_a_network_that_this_site_has_not_is_refused_rather_than_left_out() -> None:
    network = AttachedNetwork(NetworkKind.BRIDGE, "br0")
    with pytest.raises(Refused, match="Card 1 of db1 is to be on bridge br0") as raised:
        command(replace(ORDER, networks={0: network}))
    assert "--network isolated" in raised.value.remedy


def test_the_twin_is_told_from_its_source() -> None:
    found = command()
    assert option("-uuid", found) == [FAILOVER]
    assert "the-source" not in " ".join(found)


def test_a_guest_that_shuts_down_leaves_its_qemu_and_one_that_reboots_reboots() -> None:
    assert "-no-shutdown" in command()
    assert "-no-reboot" not in command()


def test_processors_and_memory() -> None:
    assert option("-smp", command()) == ["2"]
    assert option("-smp", command(host=replace(TCG, accelerator="kvm"))) == ["8"]
    assert option("-m", command()) == ["4096"]
    assert option("-m", command(host=replace(TCG, memory=1 << 30))) == ["1024"]


@pytest.mark.parametrize("isolated", [True, False])
def test_a_machine_is_reached_and_reaches_nothing(isolated: bool) -> None:
    (shut,) = option("-netdev", command(replace(ORDER, isolated=isolated)))
    assert shut == ("user,id=net0,ipv6=off,restrict=on,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=tcp:127.0.0.1:5433-:5432")


def test_qemu_is_lent_its_files_and_opens_none() -> None:
    found = command()
    assert "socket,id=monitor,server=on,wait=off,fd=11" in option("-chardev", found)
    assert option("-add-fd", found) == [f"fd=12,set=1,opaque={FILES.pid}"]
    assert not [word for word in found if str(FILES.folder) in word and "opaque=" not in word]


@pytest.mark.parametrize(
    ("addresses", "settings"),
    [
        (("192.168.7.20/24",), ",net=192.168.7.0/24,host=192.168.7.254,dns=192.168.7.253,dhcpstart=192.168.7.20"),
        (("10.1.2.254/24",), ",net=10.1.2.0/24,host=10.1.2.253,dns=10.1.2.252,dhcpstart=10.1.2.254"),
        (("fe80::1/64", "nonsense", "169.254.1.1/16"), ""),
        (("192.0.2.1/32",), ""),
        ((), ""),
    ],
)
def test_a_machine_keeps_its_address(addresses: tuple[str, ...], settings: str) -> None:
    machine = replace(MACHINE, nics=(NicDescription("eth0", "52:54:00:00:00:01", addresses),))
    (network,) = option("-netdev", command(replace(ORDER, machine=machine, forward={})))
    assert network == f"user,id=net0,ipv6=off,restrict=on{settings}"


def test_uefi_gets_its_own_variables() -> None:
    order = replace(ORDER, machine=replace(MACHINE, firmware=Firmware.UEFI))
    code, variables = option("-blockdev", command(order))[:2]
    assert code.endswith(
        "node-name=firmware,read-only=on,file.driver=file,file.filename=/usr/share/OVMF/OVMF_CODE_4M.fd"
    )
    assert variables == "driver=raw,node-name=variables,file.driver=file,file.filename=/dev/fdset/2"
    assert option("-machine", command(order)) == ["q35,vmport=off,pflash0=firmware,pflash1=variables"]
    assert option("-machine", command()) == ["q35,vmport=off"]
    assert "fd=13,set=2" in option("-add-fd", command(order))
    with pytest.raises(Refused, match="UEFI"):
        command(order, replace(TCG, firmware=None))


def test_names_cannot_smuggle_options_in() -> None:
    machine = replace(MACHINE, nics=(NicDescription("eth0", "52:54:00:00:00:01,bootindex=1"),))
    disk = replace(ORDER.disks[0], serial="x,drive=y")
    found = command(replace(ORDER, name="db1,process=evil", machine=machine, disks=(disk,)))
    assert option("-name", found) == ["db1,,process=evil,debug-threads=on"]
    assert any(device.endswith("serial=x,,drive=y,bootindex=1") for device in option("-device", found))
    assert "virtio-net-pci,netdev=net0,romfile=" in option("-device", found)


def test_what_this_host_cannot_run_is_refused() -> None:
    with pytest.raises(Refused, match="aarch64"):
        command(replace(ORDER, machine=replace(MACHINE, architecture="aarch64")))
    with pytest.raises(Refused, match="too long"):
        command(files=RunFiles(Path("/run") / ("x" * 100)))
