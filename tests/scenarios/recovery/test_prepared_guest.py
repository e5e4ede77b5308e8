"""A Debian system of virtio disks and DHCP comes up on other buses, under a card's new name and address, once its copy
was prepared; and without that it does not answer there."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.contract.places import short_folder

from farshore.export.mounted import served
from farshore.export.preparation.prepare import prepare, served_disk
from farshore.export.preparation.wish import CardWish, Report, Wish
from farshore.export.raw_file import RawFileSource
from farshore.lab.accelerator import accelerator_for
from farshore.lab.cache import cache_folder
from farshore.lab.image import GuestImage, ensure_image
from farshore.lab.ports import free_port
from farshore.lab.recipe import GuestRecipe
from farshore.lab.shell import Shell
from farshore.model.errors import Unreachable
from farshore.model.identifiers import DiskNumber
from farshore.model.machine import DiskDescription, Firmware, MachineDescription, NicDescription
from farshore.model.target import DiskBus
from farshore.sites.azure.site import AzureSite
from farshore.sites.port import AttachedDisk, FailoverId, RecoveryOrder, ServedDisk, UnixAddress
from farshore.sites.qemu.site import QemuSite

pytestmark = [
    pytest.mark.soak,
    pytest.mark.root,
    pytest.mark.guest,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]
DISK = DiskNumber(0)
MAC = "52:54:00:aa:bb:cc"
ADDRESS = "192.0.2.10/24"
CLOUD = GuestRecipe()
GENERIC = replace(CLOUD, packages=tuple(name.replace("linux-image-cloud-", "linux-image-") for name in CLOUD.packages))
"""Debian's cloud kernel has no driver of SATA."""
DRIVERS = {DiskBus.PVSCSI: ("vmw_pvscsi", "sd_mod"), DiskBus.SATA: ("ahci", "sd_mod")}
HYPER_V = AzureSite.hardware
WITHOUT_SECONDS = 300.0


@dataclass
class Copy:
    """A machine's copy over its disk, served. ``image`` has the keys that it is logged in to with."""

    image: GuestImage
    disk: Path
    socket: Path
    firmware: Firmware = Firmware.BIOS
    boot_entries: tuple[str, ...] = ()

    def prepare(self, bus: DiskBus) -> Report:
        card = CardWish("lan0", MAC, "52:54:00:00:00:01", (ADDRESS,), ("192.0.2.1",))
        wish = Wish(DRIVERS[bus], {"vda": 0}, 0, (card,), ssh=True)
        return prepare([(DISK, served_disk(0, self.socket, "0"))], wish, lambda _: None)

    @contextmanager
    def booted(self, bus: DiskBus, addresses: tuple[str, ...] = (ADDRESS,)) -> Iterator[Shell]:
        size, port = self.disk.stat().st_size, free_port()
        machine = MachineDescription(
            hostname="onprem",
            firmware=self.firmware,
            processors=1,
            memory=1 << 30,
            operating_system="",
            kernel="",
            architecture="x86_64",
            disks=(DiskDescription(DISK, "vda", size, boot=True),),
            nics=(NicDescription("lan0", MAC, addresses),),
            boot_entries=self.boot_entries,
        )
        disk = AttachedDisk(0, size, ServedDisk(UnixAddress(self.socket), "0"), boot=True)
        failover = FailoverId(str(uuid.uuid4()))
        order = RecoveryOrder(failover, "copy", machine, (disk,), isolated=True, forward={port: 22}, disk_bus=bus)
        accelerator = accelerator_for(cache_folder(), self.image.kernel)
        with short_folder() as folder:
            site = QemuSite(folder, "tcg" if accelerator.emulated else "kvm", self.image.kernel)
            site.create(order)
            site.start(failover)
            try:
                with Shell(port, self.image.ssh_key, self.image.host_key) as shell:
                    yield shell
            finally:
                site.destroy(failover)


@contextmanager
def a_copy(recipe: GuestRecipe) -> Iterator[Copy]:
    image = ensure_image(recipe)
    with (
        tempfile.TemporaryDirectory(prefix="fs-") as folder,
        served(RawFileSource(image.disk), Path(folder) / "overlay") as socket,
    ):
        yield Copy(image, image.disk, socket)


@pytest.mark.parametrize(("bus", "recipe"), [(DiskBus.PVSCSI, CLOUD), (DiskBus.SATA, GENERIC)])
def test_a_prepared_system_answers_at_its_new_address(bus: DiskBus, recipe: GuestRecipe) -> None:
    with a_copy(recipe) as copy:
        report = copy.prepare(bus)
        assert [line.partition(":")[0] for line in report.changes] == [
            "/etc/systemd/network/05-farshore-lan0.link",
            "/etc/systemd/network/05-farshore-lan0.network",
        ]
        with copy.booted(bus) as shell:
            shell.wait(1200)
            assert ADDRESS in shell.run("ip -4 -br address show dev lan0").output
            assert "192.0.2.1" in shell.run("ip route show default").output
            assert shell.run("findmnt -no SOURCE /").output.startswith("/dev/sda")


def test_without_it_the_system_does_not_answer_there() -> None:
    """The control: it asks for an address of that network, under a name of its own, and has no other."""
    with a_copy(CLOUD) as copy, copy.booted(DiskBus.PVSCSI) as shell:
        try:
            shell.wait(WITHOUT_SECONDS)
        except Unreachable:
            return
        assert "lan0" not in shell.run("ip -br link").output


def test_a_system_prepared_for_azure_has_hyper_v_s_drivers_and_starts() -> None:
    """There is no Hyper-V here: its start-up image and files are looked at from inside, on a bus that there is."""
    card = CardWish("lan0", MAC, MAC, dhcp=True, driver=HYPER_V.cards)
    wish = Wish((*HYPER_V.disks, HYPER_V.cards), {"vda": 0}, 0, (card,))
    with a_copy(CLOUD) as copy:
        report = prepare([(DISK, served_disk(0, copy.socket, "0"))], wish, lambda _: None)
        assert not [line for line in report.warnings if "driver" in line or "start-up" in line]
        with copy.booted(DiskBus.VIRTIO, ()) as shell:
            shell.wait(1200)
            held = shell.run("lsinitramfs /boot/initrd.img-$(uname -r)").output
            kernel = shell.run("cat /lib/modules/$(uname -r)/modules.builtin").output
            for driver in wish.drivers:
                assert f"/{driver}.ko" in held + kernel, driver
            assert "console=ttyS0" in shell.run("cat /proc/cmdline").output
            network = shell.run("cat /etc/systemd/network/05-farshore-lan0.network").output
            assert "Driver=hv_netvsc" in network
            assert "DHCP=yes" in network
            assert "Name=lan0" in shell.run("cat /etc/systemd/network/05-farshore-lan0.link").output
