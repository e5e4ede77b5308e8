"""A real guest on an exported disk: its export is killed under it, and it neither notices nor loses anything."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from farshore.export.launch import ExportLauncher
from farshore.export.settings import ExportedDisk, ExportSettings, FileDisk
from farshore.lab.guest import BOOT_SECONDS
from farshore.lab.image import HOST_TOOLS, GuestRecipe, ensure_image
from farshore.lab.ports import free_port
from farshore.lab.shell import Shell
from farshore.model.identifiers import DiskNumber, new_id
from farshore.model.machine import DiskDescription, Firmware, MachineDescription, NicDescription
from farshore.sites.port import AttachedDisk, Condition, FailoverId, RecoveryOrder
from farshore.sites.qemu.accelerator import QEMU
from farshore.sites.qemu.site import QemuSite

pytestmark = [pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def _host_is_able() -> None:
    missing = [tool for tool in (QEMU, *HOST_TOOLS) if shutil.which(tool) is None]
    if os.geteuid() != 0:
        missing.append("root")
    if missing:
        pytest.skip(f"a guest needs {', '.join(missing)}")


class Recovered:
    """The lab's image as a recovered machine, isolated as in a test failover."""

    def __init__(self, folder: Path) -> None:
        self.image = ensure_image(GuestRecipe())
        self.launcher = ExportLauncher()
        self.exported = folder / "x"
        disk = ExportedDisk(name="0", source=FileDisk(path=self.image.disk), overlay=self.exported / "disk-0")
        self.settings = ExportSettings(socket=self.exported / "nbd.sock", disks=(disk,))
        self.site = QemuSite(folder / "site", kernel=self.image.kernel)
        self.id = FailoverId(new_id())
        self.port = free_port()
        size = self.image.disk.stat().st_size
        machine = MachineDescription(
            hostname="onprem",
            firmware=Firmware.BIOS,
            processors=2,
            memory=1 << 30,
            operating_system="Debian 12",
            kernel="6.1",
            architecture="x86_64",
            disks=(DiskDescription(DiskNumber(0), "vda", size, boot=True),),
            nics=(NicDescription("ens3", "52:54:00:12:34:56"),),
        )
        attached = AttachedDisk(0, size, self.settings.socket, "0", boot=True)
        self.order = RecoveryOrder(self.id, "onprem-test", machine, (attached,), True, {self.port: 22})

    def kill_export(self) -> None:
        os.kill(int((self.exported / "export.pid").read_text()), signal.SIGKILL)
        while self.launcher.serving(self.exported):
            time.sleep(0.02)

    def remove(self) -> None:
        self.site.destroy(self.id)
        self.launcher.stop(self.exported)


@pytest.fixture
def recovered() -> Iterator[Recovered]:
    # Not tmp_path: the paths of Unix sockets are limited to 107 bytes.
    with tempfile.TemporaryDirectory() as folder:
        made = Recovered(Path(folder))
        try:
            yield made
        finally:
            made.remove()
        assert made.site.present() == ()
        assert not made.settings.socket.exists()


def test_a_guest_outlives_its_export(recovered: Recovered) -> None:
    recovered.launcher.start(recovered.settings)
    recovered.site.check(recovered.order)
    recovered.site.create(recovered.order)
    assert not recovered.site.answers(recovered.id, recovered.port)
    assert recovered.site.start(recovered.id).condition is Condition.RUNNING
    with Shell(recovered.port, recovered.image.ssh_key, recovered.image.host_key) as shell:
        shell.wait(BOOT_SECONDS)
        assert recovered.site.answers(recovered.id, recovered.port)
        assert shell.run("cat /sys/class/dmi/id/product_uuid").output.strip() == recovered.id
        assert shell.run("cat /sys/block/vda/queue/write_cache").output.strip() == "write back"
        reach = "timeout 5 bash -c 'exec 3<>/dev/tcp/10.0.2.2/22'"
        assert shell.run(reach, check=False).status != 0

        shell.run("head -c 16M /dev/urandom > /root/blob; sync; sha256sum /root/blob > /root/sum")
        shell.run("nohup sh -c 'head -c 24M /dev/urandom > /root/more; sync; touch /root/done' >/dev/null 2>&1 &")
        recovered.kill_export()
        assert recovered.site.status(recovered.id).condition is not Condition.ABSENT
        recovered.launcher.start(recovered.settings)
        if recovered.site.status(recovered.id).condition is Condition.PAUSED:
            recovered.site.resume(recovered.id)
        shell.run("for i in $(seq 100); do test -e /root/done && exit 0; sleep 1; done; exit 1")
        shell.run("echo 3 > /proc/sys/vm/drop_caches; sha256sum --check --quiet /root/sum")
        assert "error" not in shell.run("dmesg --level=err,crit,alert,emerg", check=False).output.lower()
    assert recovered.image.disk.stat().st_mtime < (recovered.exported / "disk-0" / "data").stat().st_mtime
