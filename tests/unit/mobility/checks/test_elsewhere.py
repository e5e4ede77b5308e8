"""What would keep a machine from starting elsewhere is found, and comes with its remedy."""

from __future__ import annotations

import json
import platform
import shutil
import struct
from pathlib import Path
from typing import Any, Dict, List

import pytest

from farshore.api_types.machines import CheckSeverity, Finding
from farshore.mobility.capture import disks
from farshore.mobility.checks import elsewhere
from farshore.mobility.checks.elsewhere import Places, check_elsewhere

OK, WARNING, ERROR = CheckSeverity.OK, CheckSeverity.WARNING, CheckSeverity.ERROR
RELEASE = platform.release()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    for name in ("block", "numbers"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(disks, "SYS_BLOCK", tmp_path / "block")
    monkeypatch.setattr(disks, "SYS_DEVICES", tmp_path / "numbers")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    write(tmp_path / f"lib/modules/{RELEASE}/modules.builtin", "kernel/virtio_blk.ko\nkernel/virtio_pci.ko\n")
    return Places(tmp_path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def found(places: Places, subject: str) -> Finding:
    (one,) = [each for each in check_elsewhere(frozenset({"254:0"}), places) if each.subject == subject]
    assert one.severity is OK or one.remedy
    return one


def test_another_architecture(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert found(places, "architecture").severity is ERROR


def test_uefi_wants_its_fallback_file(places: Places) -> None:
    assert all(one.subject != "UEFI" for one in check_elsewhere(frozenset(), places))
    places.efi.mkdir(parents=True)
    write(places.root / "boot/efi/EFI/debian/grubx64.efi", "")
    assert found(places, "UEFI").severity is WARNING
    write(places.root / "boot/efi/EFI/BOOT/BOOTX64.EFI", "")
    assert found(places, "UEFI").severity is OK


@pytest.mark.parametrize(
    ("listing", "severity", "said"),
    [
        ("usr/lib/modules/virtio-pci.ko.xz usr/lib/modules/virtio_blk.ko", OK, "has the drivers"),
        ("usr/lib/modules/virtio_pci.ko", ERROR, "lacks virtio_blk"),
        (None, WARNING, "not known"),
    ],
)
def test_the_drivers_of_a_recovery_site(
    places: Places, listing: Any, severity: CheckSeverity, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert found(places, "virtio").severity is OK, "built in"
    write(places.root / f"lib/modules/{RELEASE}/modules.builtin", "kernel/ext4.ko\n")
    write(places.boot / f"initrd.img-{RELEASE}", "")
    tool = tmp_path / "lsinitramfs"
    tool.write_text("#!/bin/sh\nexit 1\n" if listing is None else f"#!/bin/sh\nprintf '/%s\\n' {listing}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tool) if name == "lsinitramfs" else None)
    one = found(places, "virtio")
    assert (one.severity, said in one.message) == (severity, True)


def test_names_that_mean_something_else_there(places: Places) -> None:
    lines = ["# a comment", "UUID=1 / ext4", "/dev/sda1 /boot ext4", "/dev/mapper/vg-a /a xfs", "/dev/nvme0n1p2 /b xfs"]
    write(places.fstab, "\n".join([*lines, "/dev/disk/by-path/pci-1 /c ext4"]))
    told = [one.subject for one in check_elsewhere(frozenset(), places) if one.severity is WARNING]
    assert told == ["fstab /boot", "fstab /b", "fstab /c"]


def luks(places: Places, tokens: List[Dict[str, Any]], slots: List[str]) -> None:
    """dm-0, encrypted, over the disk vda."""
    vda, volume = places.root / "devices/vda", places.root / "devices/dm-0"
    for place, number in ((vda, "254:0"), (volume, "253:0")):
        write(place / "dev", number)
        (places.root / "numbers" / number).symlink_to(place)
    write(volume / "dm/uuid", "CRYPT-LUKS2-1-root")
    write(volume / "dm/name", "root")
    (volume / "slaves").mkdir()
    (volume / "slaves/vda").symlink_to(vda)
    (places.root / "block/dm-0").symlink_to(volume)
    document = {"keyslots": {key: {} for key in slots}, "tokens": {str(n): one for n, one in enumerate(tokens)}}
    header = struct.pack(">6sHQ", b"LUKS\xba\xbe", 2, 16384).ljust(4096, b"\0")
    places.node("vda").parent.mkdir()
    places.node("vda").write_bytes(header + json.dumps(document).encode().ljust(12288, b"\0"))


TPM = {"type": "systemd-tpm2", "keyslots": ["1"]}


def test_a_volume_that_only_this_tpm_opens(places: Places) -> None:
    luks(places, [TPM], ["1"])
    one = found(places, "encrypted root")
    assert (one.severity, "luksAddKey /dev/vda" in one.remedy) == (ERROR, True)


def test_a_volume_that_the_tpm_and_a_passphrase_open(places: Places) -> None:
    luks(places, [TPM], ["0", "1"])
    assert found(places, "encrypted root").severity is WARNING


def test_a_volume_with_a_passphrase_alone_needs_no_word(places: Places) -> None:
    luks(places, [], ["0"])
    assert all(one.subject != "encrypted root" for one in check_elsewhere(frozenset({"254:0"}), places))


@pytest.mark.parametrize("content", [b"", b"LUKS", b"LUKS\xba\xbe" + bytes(5000), b"\xff" * 20000])
def test_a_header_that_is_none_is_told(places: Places, content: bytes) -> None:
    luks(places, [TPM], ["1"])
    places.node("vda").write_bytes(content)
    assert "cannot be read" in found(places, "encrypted root").message


def test_a_header_that_says_it_is_large_costs_nothing(places: Places) -> None:
    luks(places, [TPM], ["1"])
    places.node("vda").write_bytes(struct.pack(">6sHQ", b"LUKS\xba\xbe", 2, 1 << 60))
    assert elsewhere.luks_document(places.node("vda")) is None
