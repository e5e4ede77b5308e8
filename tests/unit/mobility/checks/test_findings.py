"""Each thing that cannot be captured, or is lacking, is found and comes with its remedy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, Dict, List

import pytest
from tests.unit.mobility.doubles import FakeClock

from farshore.api_types.machines import CheckSeverity, Finding
from farshore.mobility.capture import disks as capture_disks
from farshore.mobility.capture.disks import Disk
from farshore.mobility.capture.probe import Ability, Obstacle
from farshore.mobility.checks import disks, everything, kernel, layers, room
from farshore.mobility.checks.everything import Surroundings, look_around
from farshore.mobility.checks.lookout import TELL_SECONDS, Lookout
from farshore.mobility.settings import Settings
from farshore.model.states import CaptureMode

OK, WARNING, ERROR = CheckSeverity.OK, CheckSeverity.WARNING, CheckSeverity.ERROR
VDA = Disk("vda", 254, 0, 1 << 30)
Make = Callable[[str, Dict[str, str]], None]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a device of sysfs: its place below /sys/devices, and files in it."""
    numbers, block = tmp_path / "numbers", tmp_path / "block"
    numbers.mkdir()
    block.mkdir()
    for module in (disks, layers, capture_disks):
        monkeypatch.setattr(module, "SYS_DEVICES", numbers, raising=False)
        monkeypatch.setattr(module, "SYS_BLOCK", block, raising=False)

    def make(place: str, files: Dict[str, str]) -> None:
        folder = tmp_path / "devices" / place
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text + "\n")
        (numbers / files["dev"]).symlink_to(folder)
        if not (block / folder.name).exists():
            (block / folder.name).symlink_to(folder)

    return make


def severities(found: List[Finding]) -> List[CheckSeverity]:
    assert all(bool(one.remedy) == (one.severity is not OK) for one in found), "a trouble without a remedy, or the like"
    return [one.severity for one in found]


@pytest.mark.parametrize(
    ("place", "files", "severity", "text"),
    [
        ("pci/virtio0/block/vda", {}, OK, "virtio"),
        ("pci/host0/session1/target/block/vda", {}, WARNING, "iSCSI"),
        ("pci/nvme-fabrics/nvme0n1", {"device/transport": "tcp"}, WARNING, "NVMe over tcp"),
        ("pci/usb1/1-1/block/vda", {}, WARNING, "removed"),
        ("pci/ata1/block/vda", {"removable": "1"}, WARNING, "removed"),
        ("pci/ata1/block/vda", {"queue/zoned": "host-managed"}, WARNING, "zone"),
        ("pci/ata1/block/vda", {"queue/zoned": "none", "queue/iostats": "1"}, OK, "ATA"),
        ("pci/ata1/block/vda", {"queue/iostats": "0"}, WARNING, "statistics"),
        ("pci/ata1/block/vda", {"queue/logical_block_size": "512", "mq/0/cpu_list": "0"}, OK, "ATA"),
        ("subsystem/nvme0n1", {"queue/logical_block_size": "512"}, WARNING, "no requests"),
        ("pci/ata1/block/vda", {"device/scsi_generic/x": ""}, OK, "SG_IO"),
        ("pci/ata1/block/vda", {"holders/dm-3/dm/uuid": "mpath-36001"}, ERROR, "multipath"),
        ("pci/ata1/block/vda", {"holders/dm-3/dm/uuid": "LVM-36001"}, OK, "ATA"),
    ],
)
def test_how_a_disk_is_attached(
    tree: Make, place: str, files: Dict[str, str], severity: CheckSeverity, text: str
) -> None:
    tree(place, {"dev": "254:0", **files})
    found = list(disks.check_disks([VDA]))
    assert severities(found) == [severity]
    assert text in found[0].message


def test_two_paths_to_one_disk_and_a_network_disk(tree: Make) -> None:
    tree("a/sda", {"dev": "8:0"})
    tree("b/sdb", {"dev": "8:16"})
    tree("c/nbd0", {"dev": "43:0", "size": "2048"})
    tree("c/nbd1", {"dev": "43:1", "size": "0"})
    paths = [Disk("sda", 8, 0, 1 << 30, wwid="naa.1"), Disk("sdb", 8, 16, 1 << 30, wwid="naa.1")]
    found = list(disks.check_disks(paths))
    assert severities(found) == [OK, OK, ERROR, WARNING]
    assert "the same disk" in found[2].message
    assert found[3].subject == "disk nbd0"


def test_file_systems(tree: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree("x/vda", {"dev": "254:0"})
    tree("x/vda/vda1", {"dev": "254:1", "partition": "1"})
    tree("x/vdz", {"dev": "254:32"})
    lines = tmp_path / "mountinfo"
    lines.write_text(
        "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
        "30 1 254:1 / /again rw - ext4 /dev/vda1 rw\n"
        "23 1 254:0 / /boot/efi rw - vfat /dev/vda rw\n"
        "24 1 0:40 / /home rw - nfs4 server:/home rw\n"
        "25 1 254:32 / /unprotected rw - vfat /dev/vdz rw\n"
    )
    monkeypatch.setattr(capture_disks, "MOUNTS", lines)
    found = list(layers.check_file_systems(frozenset({"254:0"})))
    assert [(one.subject, one.severity) for one in found] == [
        ("file system /", OK),
        ("file system /boot/efi", WARNING),
        ("file system /home", WARNING),
    ]
    lines.write_text(
        "22 1 254:1 / /pmem rw - ext4 /dev/vda1 rw,dax=always\n23 1 254:0 / /c rw - f2fs /dev/vda rw,inlinecrypt\n"
    )
    found = list(layers.check_file_systems(frozenset({"254:0"})))
    assert severities(found) == [ERROR, OK, ERROR, OK]
    assert "DAX" in found[0].message
    assert "inlinecrypt" in found[2].message


def test_layers(tree: Make) -> None:
    tree("x/vda", {"dev": "254:0"})
    for name, number, files in (
        ("dm-0", "253:0", {"dm/uuid": "LVM-x", "dm/name": "vg-root"}),
        ("dm-1", "253:1", {"dm/uuid": "CRYPT-LUKS2-x", "dm/name": "secret"}),
        ("md0", "9:0", {"md/level": "raid1"}),
    ):
        tree(f"virtual/{name}", {"dev": number, "slaves/vda/dev": "254:0", **files})
    found = {one.subject: one.message for one in layers.check_layers(frozenset({"254:0"}))}
    assert set(found) == {"volume vg-root", "encrypted secret", "md md0"}
    assert "same key" in found["encrypted secret"]


def test_swap_that_is_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "swap_areas", lambda: [Path("/dev/vda2"), Path("/swap")])
    monkeypatch.setattr(layers, "hidden_swaps", lambda: [(Path("/swap"), "btrfs does not tell.")])
    found = list(layers.check_swap())
    assert severities(found) == [OK, WARNING]
    assert "btrfs does not tell" in found[1].message


def test_the_capture_mode() -> None:
    def modes(ability: Ability, asked: CaptureMode | None = None) -> List[Finding]:
        return [one for one in kernel.check_kernel(ability, Settings(capture=asked)) if one.subject == "capture mode"]

    (good,) = modes(Ability(CaptureMode.DATA))
    assert good.severity is OK
    (old,) = modes(Ability(CaptureMode.BITMAP, (Obstacle("Kernel 5.14 lacks bpf_loop.", "Upgrade to 5.17."),)))
    assert (old.severity, old.remedy) == (WARNING, "Upgrade to 5.17.")
    assert "a point every 60 seconds" in old.message
    (asked,) = modes(Ability(CaptureMode.DATA), CaptureMode.BITMAP)
    assert "was requested" in asked.message


def test_lockdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "LOCKDOWN", tmp_path / "lockdown")
    for text, severity in (("none [integrity] confidentiality", OK), ("none integrity [confidentiality]", WARNING)):
        (tmp_path / "lockdown").write_text(text)
        (found,) = [
            one for one in kernel.check_kernel(Ability(CaptureMode.DATA), Settings()) if one.subject == "lockdown"
        ]
        assert found.severity is severity


def test_privileges_in_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "STATUS", tmp_path / "status")
    (tmp_path / "status").write_text("Name:\tx\nCapEff:\t00000000a80425fb\n")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = next(kernel.check_process())
    assert found.severity is ERROR
    assert "CAP_SYS_ADMIN" in found.message
    assert "CAP_BPF" in found.message
    (tmp_path / "status").write_text("Name:\tx\nCapEff:\t000001ffffffffff\n")
    assert next(kernel.check_process()).severity is OK


def test_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MEMORY", tmp_path / "meminfo")
    for free, severity in ((100 << 10, WARNING), (4 << 20, OK)):
        (tmp_path / "meminfo").write_text(f"MemTotal: 8000000 kB\nMemAvailable: {free} kB\n")
        (found,) = room.check_memory(Settings())
        assert found.severity is severity


def test_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(spill: Path | None = None, **settings: int) -> Finding:
        (found,) = room.check_state(Settings(state=tmp_path, **settings), frozenset({"254:0"}), spill)
        return found

    monkeypatch.setattr(room, "mounted_on", lambda: {str(mounted): frozenset({"254:0"})})
    mounted = next(place for place in (tmp_path, *tmp_path.parents) if place.is_mount())
    monkeypatch.setattr(room, "file_ranges", lambda path: {})
    assert one(spill_bytes=1 << 20).severity is OK
    assert "by choice" in one(spill_bytes=0).message
    assert "MiB free" in one(spill_bytes=1 << 60).message

    def hidden(path: Path) -> None:
        raise room.Unsupported("btrfs does not tell.", remedy="")

    monkeypatch.setattr(room, "file_ranges", hidden)
    assert "btrfs does not tell" in one(spill_bytes=1 << 20).message
    assert not list(tmp_path.iterdir()), "the trial file is left behind"
    monkeypatch.setattr(room, "mounted_on", lambda: {str(mounted): frozenset({"254:99"})})
    assert one(spill_bytes=1 << 20).severity is OK


def test_a_check_that_fails_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such thing here")

    monkeypatch.setattr(everything, "check_swap", fail)
    monkeypatch.setattr(everything, "check_disks", lambda disks: iter(()))
    here = Surroundings(Settings(state=tmp_path, spill_bytes=1 << 20), [VDA], ability=Ability(CaptureMode.DATA))
    found = {one.subject: one for one in look_around(here)}
    assert "no such thing here" in found["swap"].message
    assert "memory" in found
    caplog.clear()


def test_findings_are_told_once_when_new_and_again_now_and_then() -> None:
    clock = FakeClock()
    answers = [[Finding(subject="a", severity=OK, message="1")], [Finding(subject="a", severity=OK, message="2")]]
    lookout = Lookout(lambda: Surroundings(Settings(), []), clock, lambda here: answers.pop(0))
    assert lookout.untold() is None
    lookout.look()
    first = lookout.untold()
    assert first is not None
    assert lookout.untold() == first, "the server did not answer"
    lookout.told(first)
    assert lookout.untold() is None
    clock.move(TELL_SECONDS)
    assert lookout.untold() == first
    lookout.told(first)
    lookout.look()
    assert lookout.untold() not in (None, first)
