"""What a recovered machine and its QEMU can do to this host: a real guest tries, and its process is looked at."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.sites.test_command import FAILOVER, MACHINE
from tests.waiting import until

from farshore.export.appliance.archive import Archive
from farshore.export.appliance.contents import which
from farshore.export.appliance.kernel import find_kernel
from farshore.export.launch import ExportLauncher
from farshore.export.settings import ExportedDisk, ExportSettings, FileDisk
from farshore.lab.ports import free_port
from farshore.model.machine import NicDescription
from farshore.sites.port import AttachedDisk, Condition, RecoveryOrder, ServedDisk, UnixAddress
from farshore.sites.qemu import launching
from farshore.sites.qemu import site as site_module
from farshore.sites.qemu.confinement import account
from farshore.sites.qemu.site import QemuSite

pytestmark = pytest.mark.root

INIT = """#!/busybox sh
/busybox mkdir /proc /sys
/busybox mount -t proc none /proc
/busybox mount -t sysfs none /sys
/busybox mount -t devtmpfs none /dev
/busybox modprobe -a {modules}
for card in eth0 eth1; do
  case $(/busybox cat /sys/class/net/$card/address) in
    *:01) /busybox ifconfig $card 10.0.2.15 netmask 255.255.255.0 up ;;
    *:02) /busybox ifconfig $card 10.0.3.15 netmask 255.255.255.0 up ;;
  esac
done
/busybox nc -w 5 10.0.3.2 {port} </dev/null && echo SAID control
/busybox nc -w 5 10.0.2.2 {port} </dev/null && echo SAID loopback
/busybox nc -w 5 10.0.2.3 {port} </dev/null && echo SAID names
/busybox ip route add default via 10.0.2.2
/busybox nc -w 5 {outside} {port} </dev/null && echo SAID outside
echo SAID tried
n=0
while /busybox dd if=/dev/vda of=/dev/null bs=4096 count=1 skip=$n iflag=direct 2>/dev/null; do
  n=$((n+1)); echo READ $n; /busybox usleep 200000
done
echo SAID broken
"""
MODULES = ("virtio_blk", "virtio_net", "virtio_pci")


class Listener:
    """On every address of this host, the loopback among them; says what it is to whoever comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("0.0.0.0", 0))
        self.port = self._socket.getsockname()[1]
        self.callers: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, (host, _) = self._socket.accept()
            except OSError:
                return
            self.callers.append(host)
            with peer:
                peer.sendall(b"hello\n")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def own_address() -> str:
    """One of this host that is not the loopback's; of no importance where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("198.51.100.1", 9))
        except OSError:
            return "198.51.100.1"
        return str(asking.getsockname()[0])


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """Short enough for sockets, and closed to everybody but root."""
    with tempfile.TemporaryDirectory(prefix="fs-") as folder:
        yield Path(folder)


def boot_image(folder: Path, port: int) -> list[str]:
    """QEMU's options for a guest that tries this host, and reads its disk until that fails."""
    kernel = find_kernel()
    busybox = which("busybox")
    assert busybox is not None
    image = folder / "initrd"
    with image.open("wb") as file:
        archive = Archive(file)
        archive.add("/busybox", busybox)
        archive.add_folder("/dev")
        for path in (Path("modules.dep"), *kernel.files(MODULES)):
            archive.add(f"/lib/modules/{kernel.release}/{path}", kernel.modules / path)
        script = INIT.format(modules=" ".join(MODULES), port=port, outside=own_address())
        archive.add_bytes("/init", script.encode(), 0o755)
        archive.end()
    shutil.copy(kernel.image, folder / "kernel")
    for path in (image, folder / "kernel"):
        path.chmod(0o644)
    return [str(folder / "kernel"), str(image)]


def test_a_guest_reaches_no_host_and_its_qemu_has_no_rights(
    place: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="fs-") as boot:  # QEMU reads kernel and image by name in this test alone
        Path(boot).chmod(0o755)
        _try(place, Path(boot), listener, monkeypatch)


def _try(place: Path, open_folder: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, image = boot_image(open_folder, listener.port)
    made = launching.qemu_command

    def with_guest(*arguments: object) -> list[str]:
        # The second card is the control: a network as recovered machines had before.
        control = ["-netdev", "user,id=control,ipv6=off,net=10.0.3.0/24"]
        control += ["-device", "virtio-net-pci,netdev=control,mac=52:54:00:00:00:02"]
        start = ["-kernel", kernel, "-initrd", image, "-append", "console=ttyS0 quiet panic=-1 no_timer_check"]
        return [*made(*arguments), *control, *start]  # type: ignore[arg-type]

    monkeypatch.setattr(launching, "qemu_command", with_guest)
    disk = place / "disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    run = place / "export"
    exported = ExportedDisk(name="0", source=FileDisk(path=disk), overlay=run / "disk-0")
    settings = ExportSettings(socket=run / "nbd.sock", disks=(exported,), shared=True)
    exports, site = ExportLauncher(), QemuSite(place / "sites", accelerator="tcg")
    nic = NicDescription("eth0", "52:54:00:00:00:01")
    order = RecoveryOrder(
        failover=FAILOVER,
        name="db1",
        machine=replace(MACHINE, processors=1, memory=256 << 20, nics=(nic,)),
        disks=(AttachedDisk(0, 64 << 20, ServedDisk(UnixAddress(settings.socket), "0"), boot=True),),
        isolated=False,
        forward={free_port(): 22},
    )
    exports.start(settings)
    try:
        site.create(order)
        assert site.start(FAILOVER).condition is Condition.RUNNING
        assert site.start(FAILOVER).condition is Condition.RUNNING, "a second start finds the first"
        process = site._process(FAILOVER)
        assert process is not None
        rights = dict(re.findall(r"^(\w+):\s+(.*)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE))
        who = account(FAILOVER)
        assert who is not None
        assert rights["Uid"].split() == [str(who.user)] * 4
        assert who.user != 0
        assert rights["Gid"].split() == [str(who.group)] * 4
        assert {int(rights[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
        assert (rights["NoNewPrivs"], rights["Seccomp"]) == ("1", "2")
        assert all(path.stat().st_uid == 0 for path in place.rglob("*")), "it owns nothing"
        assert place.stat().st_mode & 0o077 == 0

        def console() -> str:
            return site.console(FAILOVER).read_text(errors="replace")

        until(lambda: "SAID tried" in console(), "the guest's attempts")
        assert re.findall(r"SAID (\w+)", console()) == ["control", "tried"], console()[-2000:]
        assert listener.callers == ["127.0.0.1"], "the control's alone"

        exports.stop(run)
        before = console().count("READ")
        exports.start(settings)
        until(lambda: console().count("READ") > before + 2, "reads after the export was started anew")
        assert "SAID broken" not in console()
        assert QemuSite(place / "sites", accelerator="tcg").status(FAILOVER).condition is Condition.RUNNING
        site.destroy(FAILOVER)
        assert not Path(f"/proc/{process}/cmdline").exists() or not Path(f"/proc/{process}/cmdline").read_bytes()
    finally:
        site.destroy(FAILOVER)
        exports.stop(run)


def test_a_qemu_that_cannot_start_says_why(place: Path) -> None:
    site = QemuSite(place / "sites", accelerator="tcg")
    (place / "export").mkdir()
    order = RecoveryOrder(
        failover=FAILOVER,
        name="db1",
        machine=MACHINE,
        disks=(AttachedDisk(0, 64 << 20, ServedDisk(UnixAddress(place / "export" / "nbd.sock"), "0"), boot=True),),
        isolated=True,
    )
    site.create(order)
    with pytest.raises(site_module.TryLater, match=r"nbd\.sock"):
        site.start(FAILOVER)
    assert site.status(FAILOVER).condition is Condition.STOPPED
    site.destroy(FAILOVER)
