"""LVM over a GPT and an MBR disk, an md mirror beside it, swap on a volume and in a file: on Debian's own kernel.

One guest run for all of it, with the bundle that a push installation brings. The kernel there lists the two symbols
from which the capture program computes page addresses; the host of the other tests may not. An NVMe disk beside them
takes direct I/O from memory that is aligned to 4 bytes only, as no device of the host does.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.loopdisks import run
from tests.scenarios.capture.cut_sectors import program_that_cuts_sectors

from farshore.export import appliance
from farshore.export.files.in_appliance import InAppliance
from farshore.export.files.reader import file_reader
from farshore.export.files.user_mode_linux import UserModeLinux
from farshore.export.raw_file import RawFileSource
from farshore.lab.command import GuestSettings
from farshore.lab.guest import Guest
from farshore.lab.image import HOST_TOOLS, GuestRecipe, ensure_image
from farshore.model.identifiers import DiskNumber
from farshore.protection.push.bundle import build_bundle, default_cache
from farshore.sites.qemu.accelerator import QEMU

pytestmark = [pytest.mark.root, pytest.mark.soak, pytest.mark.timeout(1800)]
MIB = 1 << 20
SIZE = 128 * MIB
LINUX = 0x83
KERNEL_SYMBOLS = 1
READER_TOOLS = ("linux.uml", "modprobe", "vgchange", "nbdfuse")


@pytest.fixture(autouse=True)
def _host_is_able() -> None:
    missing = [tool for tool in (QEMU, *HOST_TOOLS, *READER_TOOLS) if shutil.which(tool) is None] + appliance.missing()
    if os.geteuid() != 0:
        missing.append("root")
    if missing:
        pytest.skip(f"a guest needs {', '.join(missing)}")


def gpt(path: Path) -> Path:
    path.touch()
    os.truncate(path, SIZE)
    run(f"sgdisk -n 1:2048:+56M -n 2:0:+40M {path}")
    return path


def mbr(path: Path) -> Path:
    path.touch()
    os.truncate(path, SIZE)
    entries = b"".join(
        struct.pack("<B3sB3sII", 0, b"\0\2\0", LINUX, b"\0\2\0", start * 2048, length * 2048)
        for start, length in ((1, 56), (57, 40))
    )
    with path.open("r+b") as file:
        file.seek(446)
        file.write(entries.ljust(64, b"\0") + b"\x55\xaa")
    return path


def test_volumes_and_mirrors_are_captured_at_the_bottom(tmp_path: Path) -> None:
    image = ensure_image(GuestRecipe())
    site = tmp_path / "site"
    bundle = build_bundle((3, 11), default_cache())
    with tarfile.open(bundle.path) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (tmp_path / "unpacked" / bundle.release / "site").rename(site)
    here = Path(__file__).parent
    for script in (here / "in_guest.py", here / "unaligned_in_guest.py", here.parent / "capture" / "scattered.py"):
        shutil.copy(script, site / script.name)
    shutil.copy(program_that_cuts_sectors(tmp_path), site / "faulty.bpf.o")
    packed = tmp_path / "site.tar"
    run(f"tar -C {tmp_path} -cf {packed} site")
    # The images of both disks, their truths and the ring are in the guest's memory at once: 0.7 GiB.
    settings = GuestSettings(memory=2048, data_disks=(gpt(tmp_path / "b.raw"), mbr(tmp_path / "c.raw")))
    with Guest(image, tmp_path / "guest", settings) as guest:
        guest.start()
        guest.wait_until_up()
        add_nvme(guest, tmp_path / "d.raw")
        guest.shell.copy(packed, "/root/site.tar")
        guest.shell.run("tar -C /root -xf /root/site.tar")
        unaligned = guest.shell.run(
            "cd /root/site && python3 unaligned_in_guest.py /root/site faulty.bpf.o", seconds=600
        )
        done = guest.shell.run("cd /root/site && python3 in_guest.py /root/site", seconds=1500)
    assert_whole_sectors(json.loads(unaligned.output.splitlines()[-1]))
    found = json.loads(done.output.splitlines()[-1])
    assert found["address_source"] == KERNEL_SYMBOLS, found
    assert found["mode"] == "data", found
    assert found["below"] == {"/dev/vg/data": 2, "/dev/md0": 2, "/dev/vg/swap": 1}, found
    assert found["frozen"] == ["/srv/mirror", "/srv/volume"], found
    assert found["disks_in_stream"] == [0, 1], found
    assert [outside for _, outside in found["differing"]] == [0, 0], "blocks that are not excluded differ"
    assert [inside > 0 for inside, _ in found["differing"]] == [True, True], "nothing was written to what is excluded"
    hrl = 4 * MIB
    assert min(found["excluded"]) >= hrl, "the mirror's .hrl file lies on both disks"
    assert sum(found["excluded"]) >= 3 * hrl + found["swapped"] * 1024 // 2, found
    assert found["swapped"] > 0, "nothing was swapped out"
    assert found["verdicts"] == ["ok"], found
    assert found["hidden_swaps"] == [], found
    assert [unseen for _, unseen in found["bitmap_only"]] == [0, 0], "blocks changed that the bitmap does not tell of"
    assert min(changed for changed, _ in found["bitmap_only"]) > 3 * MIB // 4096, found
    findings = found["findings"]
    assert not [one for one, (severity, _) in findings.items() if severity == "error"], findings
    assert {"volume vg-data", "volume vg-swap", "md md0"} <= set(findings), findings
    assert findings["swap /srv/volume/swap"] == ["ok", "It is not sent."], findings
    assert findings["file system /srv/mirror"][0] == "ok", findings
    assert "data mode" in findings["capture mode"][1], findings
    for way in (UserModeLinux.name, InAppliance.name):
        for_the_reader(way, settings.data_disks, found["again"], tmp_path)


def add_nvme(guest: Guest, path: Path) -> None:
    path.touch()
    os.truncate(path, 16 * MIB)
    file = {"driver": "file", "filename": str(path)}
    guest.monitor("blockdev-add", {"node-name": "nvme-disk", "driver": "raw", "file": file})
    guest.monitor("device_add", {"driver": "nvme", "id": "nvme", "drive": "nvme-disk", "serial": "nvme"})
    guest.shell.run("modprobe nvme && udevadm settle && until test -b /dev/nvme0n1; do sleep 0.2; done", seconds=120)


def assert_whole_sectors(found: dict[str, Any]) -> None:
    assert found["dma_alignment"] < 511, f"this disk asks for aligned memory: {found}"
    assert found["program"] == [found["writes"], 0, 0, "data"], found
    taken, differing, cut, _ = found["faulty"]
    assert taken == found["writes"], found
    assert differing > 0, "the control: records that end where memory does give another disk"
    assert cut > 0, found


def for_the_reader(way: str, disks: tuple[Path, ...], digests: list[str], folder: Path) -> None:
    """Volume and mirror, as the guest's end left them, are read without any of this host's device mapper and md."""
    sources = {DiskNumber(number): RawFileSource(disk) for number, disk in enumerate(disks)}
    with file_reader(sources, {}, way) as reader:
        volumes, left_out = reader.volumes()
        names = sorted(one.name for one in volumes)
        assert {one.file_system for one in volumes} == {"ext4"}
        if shutil.which("mdadm"):
            assert (names, left_out) == (["md127", "vg/data"], [])
        else:
            assert names == ["vg/data"]
            assert "mdadm is not installed" in left_out[0]
        for name, digest in zip(("vg/data", "md127"), digests, strict=True):
            if name not in names:
                continue
            reader.copy("/again", folder / "copied", volume=name)
            assert sha256((folder / "copied").read_bytes()).hexdigest() == digest
            (folder / "copied").unlink()
