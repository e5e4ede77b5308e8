"""The appliance's envelope keeps the rules of an import, and each rule finds the archive that breaks it."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from deploy.appliance import archive, validation
from deploy.appliance.envelope import Appliance, envelope

from farshore.model.errors import Damaged, Refused

DISK, OVF, MANIFEST = "farshore-1-disk1.vmdk", "farshore-1.ovf", "farshore-1.mf"
Files = dict[str, bytes]


def vmdk(gib: int = 16, flags: int = 0x30001) -> bytes:
    return struct.pack("<4sIIQ", b"KDMV", 3, flags, gib << 21).ljust(2048, b"\0")


def good() -> Files:
    described = envelope(Appliance("1", DISK, 2048, 16 << 30))
    return {OVF: described, MANIFEST: b"", DISK: vmdk()}


def written(folder: Path, files: Files, *, manifest: bool = True) -> Path:
    """An archive of these files, with a manifest that is right unless told otherwise."""
    if manifest:
        lines = [f"SHA256({name})= {hashlib.sha256(files[name]).hexdigest()}\n" for name in files if name != MANIFEST]
        files = {**files, MANIFEST: "".join(lines).encode()}
    path = folder / "farshore-1.ova"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return path


def in_envelope(old: str, new: str, count: int = 1) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        assert old in files[OVF].decode(), old
        return {**files, OVF: files[OVF].decode().replace(old, new, count).encode()}

    return change


def test_what_is_built_keeps_every_rule(tmp_path: Path) -> None:
    assert validation.findings(written(tmp_path, good())) == []
    disk = tmp_path / DISK
    disk.write_bytes(vmdk())
    made = archive.write(Appliance("1", DISK, 2048, 16 << 30), disk, tmp_path / "farshore-1.ova")
    with tarfile.open(made) as opened:
        assert opened.getnames() == [OVF, MANIFEST, DISK]


def test_what_breaks_a_rule_is_not_handed_out(tmp_path: Path) -> None:
    disk = tmp_path / DISK
    disk.write_bytes(b"no disk".ljust(2048))
    with pytest.raises(Damaged, match="no stream-optimised VMDK"):
        archive.write(Appliance("1", DISK, 2048, 16 << 30), disk, tmp_path / "farshore-1.ova")


BROKEN: dict[str, Callable[[Files], Files]] = {
    "has a path in it": lambda files: {**files, "../evil": b""},
    "does not begin with NAME.ovf": lambda files: {DISK: files[DISK], OVF: files[OVF], MANIFEST: b""},
    "not the referenced ones": lambda files: {**files, "more.vmdk": vmdk()},
    "another size than its reference": lambda files: {**files, DISK: vmdk() + b"more"},
    "no stream-optimised VMDK": lambda files: {**files, DISK: vmdk(flags=1)},
    "of the capacity of disk disk1": lambda files: {**files, DISK: vmdk(gib=15)},
    "The envelope is no XML": lambda files: {**files, OVF: files[OVF][:-20]},
    "has a document type": in_envelope("<ovf:Envelope", '<!DOCTYPE x [<!ENTITY e "y">]><ovf:Envelope'),
    "no Envelope of OVF 1": in_envelope("ovf/envelope/1", "ovf/envelope/2"),
    "sections are not References": in_envelope("ovf:NetworkSection>", "ovf:NetSection>", 2),
    "The machine's sections": in_envelope("ovf:ProductSection>", "ovf:OtherSection>", 2),
    "does not begin with an Info": in_envelope("<ovf:Info>Virtual hardware</ovf:Info>", ""),
    "has no number": in_envelope('ovf:id="96"', 'ovf:id="Debian"'),
    "no version of virtual hardware": in_envelope("vmx-13", "vmx"),
    "has no capacity": in_envelope('ovf:capacity="16"', 'ovf:capacity="-1"'),
    "is of no format": in_envelope("#streamOptimized", "#sparse"),
    "refers to no file": in_envelope('ovf:fileRef="file1"', 'ovf:fileRef="file2"'),
    "Two of one item": in_envelope("<rasd:InstanceID>2<", "<rasd:InstanceID>1<"),
    "one number of processors": in_envelope("<rasd:ResourceType>3<", "<rasd:ResourceType>1<"),
    "one size of memory": in_envelope("<rasd:ResourceType>4<", "<rasd:ResourceType>3<"),
    "no quantity": in_envelope("<rasd:VirtualQuantity>2<", "<rasd:VirtualQuantity>two<"),
    "no unit of memory": in_envelope("byte * 2^20", "MegaBytes"),
    "hangs on no controller": in_envelope("<rasd:Parent>3<", "<rasd:Parent>1<"),
    "use each disk once": in_envelope("ovf:/disk/disk1", "ovf:/disk/disk2"),
    "network that is not declared": in_envelope("<rasd:Connection>VM Network<", "<rasd:Connection>Other<"),
    "not in the schema's order": in_envelope(
        "<rasd:ElementName>SCSI controller 0</rasd:ElementName>\n        <rasd:InstanceID>3</rasd:InstanceID>",
        "<rasd:InstanceID>3</rasd:InstanceID><rasd:ElementName>SCSI controller 0</rasd:ElementName>",
    ),
    "lacks a name": in_envelope("<rasd:ElementName>SCSI controller 0<", "<rasd:ElementName><"),
}


@pytest.mark.parametrize("said", BROKEN)
def test_each_rule_finds_what_breaks_it(tmp_path: Path, said: str) -> None:
    found = validation.findings(written(tmp_path, BROKEN[said](good())))
    assert any(said in one for one in found), found


def test_a_manifest_that_is_wrong_is_found(tmp_path: Path) -> None:
    assert "The manifest has another digest of" in validation.findings(written(tmp_path, good(), manifest=False))[0]
    (tmp_path / "no.ova").write_bytes(b"nothing")
    assert validation.findings(tmp_path / "no.ova")[0].startswith("It is no tar archive")


def test_packages_of_the_image_are_pinned() -> None:
    tree = pytest.importorskip("deploy.appliance.tree")
    text = (Path(__file__).parents[3] / "requirements.txt").read_text()
    names = tree.closure("farshore", tree.EXTRAS)
    assert {"fastapi", "pyvmomi", "apprise", "sqlalchemy", "h11"} <= names
    assert not names & {"pytest", "mypy", "farshore"}
    chosen = tree.pinned(text, names)
    assert chosen.count("==") == len(names)
    assert re.search(r"^numpy==2\.[34]", chosen, re.MULTILINE), "of the two that are pinned, the one for Python 3.11"
    assert " ; " not in chosen
    assert all("--hash=sha256:" in block for block in chosen.split("==")[1:])
    with pytest.raises(Refused, match="does not pin nothing-of-the-kind"):
        tree.pinned(text, {*names, "nothing-of-the-kind"})
