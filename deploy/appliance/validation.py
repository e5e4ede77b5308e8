"""Holds an OVA to the rules that an import has: those of DMTF DSP0243 1.1 that apply to one machine with sparse VMDKs.

The standard's own XML schema is in no package registry, so the rules are written out here: archive and manifest,
references, disks and networks, and the items of the virtual hardware.
"""

from __future__ import annotations

import hashlib
import re
import struct
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.etree import ElementTree as Xml

from deploy.appliance.envelope import OVF, RASD, STREAM, VSSD

_TEXT_LIMIT = 1 << 20
_MANIFEST = re.compile(r"SHA256\((?P<name>[^()]+)\)= (?P<digest>[0-9a-f]{64})")
_UNITS = {"byte": 1, "byte * 2^10": 1 << 10, "byte * 2^20": 1 << 20, "byte * 2^30": 1 << 30}
_CPU, _MEMORY, _CARD, _DISK = "3", "4", "10", "17"
_CONTROLLERS = {"5", "6", "20"}
_SECTIONS = ["References", "DiskSection", "NetworkSection", "VirtualSystem"]
_SYSTEM = ["OperatingSystemSection", "ProductSection", "VirtualHardwareSection"]


def findings(ova: Path) -> list[str]:
    """Return a sentence for each rule that is broken; none for an archive that can be imported."""
    try:
        with tarfile.open(ova, "r:") as archive:
            return list(_archive(archive))
    except tarfile.TarError as error:
        return [f"It is no tar archive ({error})."]


def _archive(archive: tarfile.TarFile) -> Iterator[str]:
    members = archive.getmembers()
    names = [one.name for one in members]
    yield from (f"{one.name} is no plain file." for one in members if not one.isfile() or one.pax_headers)
    yield from (f"{name} has a path in it." for name in names if "/" in name or name.startswith("."))
    if len(names) < 3 or not names[0].endswith(".ovf") or names[1] != f"{names[0].removesuffix('.ovf')}.mf":
        yield "It does not begin with NAME.ovf and NAME.mf."
        return
    yield from _manifest(archive, members)
    described = _content(archive, members[0])
    if b"<!DOCTYPE" in described:
        yield "The envelope has a document type."
        return
    try:
        root = Xml.fromstring(described)  # noqa: S314 (no document type, so no entities)
    except Xml.ParseError as error:
        yield f"The envelope is no XML ({error})."
        return
    yield from _envelope(root, archive, {one.name: one for one in members})


def _manifest(archive: tarfile.TarFile, members: list[tarfile.TarInfo]) -> Iterator[str]:
    lines = _content(archive, members[1]).decode(errors="replace").splitlines()
    found = {match["name"]: match["digest"] for match in map(_MANIFEST.fullmatch, lines) if match}
    if len(found) != len(lines):
        yield "A line of the manifest is no SHA-256 of a file."
    for member in members[:1] + members[2:]:
        file = _file(archive, member)
        if found.pop(member.name, "") != hashlib.file_digest(file, "sha256").hexdigest():  # type: ignore[arg-type]
            yield f"The manifest has another digest of {member.name}."
    yield from (f"The manifest names {name}, which is not there." for name in found)


def _envelope(root: Xml.Element, archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> Iterator[str]:
    if root.tag != _ovf("Envelope"):
        yield "The root is no Envelope of OVF 1."
        return
    if [one.tag for one in root] != [_ovf(name) for name in _SECTIONS]:
        yield f"The envelope's sections are not {', '.join(_SECTIONS)}."
        return
    references, disks, networks, system = root
    yield from _infos(root)
    files = {_of(one, "id"): one for one in references}
    yield from _references(references, members)
    yield from _disks(disks, files, archive, members)
    found = [one.tag for one in system if one.tag.endswith("Section")]
    if sorted(found) != sorted(_ovf(name) for name in _SYSTEM):
        yield f"The machine's sections are not {', '.join(_SYSTEM)}."
        return
    guest, hardware = (system.find(_ovf(name)) for name in (_SYSTEM[0], _SYSTEM[2]))
    assert guest is not None
    assert hardware is not None
    if not _of(guest, "id").isdigit():
        yield "The operating system has no number."
    kind = hardware.findtext(f"{_ovf('System')}/{{{VSSD}}}VirtualSystemType", "")
    if not re.fullmatch(r"vmx-[0-9]{2}", kind):
        yield f"{kind!r} is no version of virtual hardware."
    yield from _hardware(hardware, disks, {_of(one, "name") for one in networks.findall(_ovf("Network"))})


def _infos(root: Xml.Element) -> Iterator[str]:
    for one in root.iter():
        name = one.tag.rpartition("}")[2]
        if (name.endswith("Section") or name == "VirtualSystem") and (len(one) == 0 or one[0].tag != _ovf("Info")):
            yield f"{name} does not begin with an Info."


def _references(references: Xml.Element, members: dict[str, tarfile.TarInfo]) -> Iterator[str]:
    yield from _twice("file", [_of(one, "id") for one in references])
    hrefs = [_of(one, "href") for one in references]
    if hrefs != list(members)[2:]:
        yield f"The archive's files are not the referenced ones in their order: {', '.join(hrefs)}."
    for one in references:
        member = members.get(_of(one, "href"))
        if member is not None and _of(one, "size") != str(member.size):
            yield f"{member.name} has another size than its reference."


def _disks(
    disks: Xml.Element, files: dict[str, Xml.Element], archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo]
) -> Iterator[str]:
    found = disks.findall(_ovf("Disk"))
    yield from _twice("disk", [_of(one, "diskId") for one in found])
    for one in found:
        name, unit = _of(one, "diskId"), _UNITS.get(_of(one, "capacityAllocationUnits") or "byte")
        capacity = _of(one, "capacity")
        if unit is None or not capacity.isdigit() or not int(capacity):
            yield f"Disk {name} has no capacity."
            continue
        if _of(one, "format") != STREAM:
            yield f"Disk {name} is of no format that an import takes."
        file = files.get(_of(one, "fileRef"))
        member = members.get(_of(file, "href")) if file is not None else None
        if member is None:
            yield f"Disk {name} refers to no file."
        elif _stream_capacity(archive, member) != int(capacity) * unit:
            yield f"{member.name} is no stream-optimised VMDK of the capacity of disk {name}."


def _stream_capacity(archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    """Bytes, as the header of a sparse extent says; 0 for what is no stream-optimised one."""
    head = _file(archive, member).read(512)
    if len(head) < 512 or head[:4] != b"KDMV":
        return 0
    version, flags, sectors = struct.unpack_from("<IIQ", head, 4)
    compressed, markers = flags & 1 << 16, flags & 1 << 17
    return int(sectors) * 512 if version in (1, 2, 3) and compressed and markers else 0


def _hardware(hardware: Xml.Element, disks: Xml.Element, networks: set[str]) -> Iterator[str]:
    items = hardware.findall(_ovf("Item"))
    by_id = {_rasd(one, "InstanceID"): one for one in items}
    yield from _twice("item", [_rasd(one, "InstanceID") for one in items])
    kinds = Counter(_rasd(one, "ResourceType") for one in items)
    for kind, name in ((_CPU, "number of processors"), (_MEMORY, "size of memory")):
        if kinds[kind] != 1:
            yield f"The hardware does not have one {name}."
    for one in items:
        yield from _item(one, by_id, networks)
    wanted = Counter(f"ovf:/disk/{_of(one, 'diskId')}" for one in disks.findall(_ovf("Disk")))
    if Counter(_rasd(one, "HostResource") for one in items if _rasd(one, "ResourceType") == _DISK) != wanted:
        yield "The hardware does not use each disk once."
    places = [(_rasd(one, "Parent"), _rasd(one, "AddressOnParent")) for one in items if _rasd(one, "Parent")]
    yield from _twice("place at a controller", [":".join(one) for one in places])


def _item(item: Xml.Element, by_id: dict[str, Xml.Element], networks: set[str]) -> Iterator[str]:
    number, kind = _rasd(item, "InstanceID"), _rasd(item, "ResourceType")
    tags = [one.tag for one in item]
    if tags != sorted(tags) or any(not tag.startswith(f"{{{RASD}}}") for tag in tags):
        yield f"Item {number}: its elements are not in the schema's order."
    if not _rasd(item, "ElementName") or not kind.isdigit() or not number:
        yield f"Item {number} lacks a name, a number or a kind."
    if kind in (_CPU, _MEMORY) and not _positive(_rasd(item, "VirtualQuantity")):
        yield f"Item {number} has no quantity."
    if kind == _MEMORY and _rasd(item, "AllocationUnits") not in _UNITS:
        yield f"Item {number} has no unit of memory."
    if kind == _DISK:
        controller = by_id.get(_rasd(item, "Parent"))
        if controller is None or _rasd(controller, "ResourceType") not in _CONTROLLERS:
            yield f"Item {number} hangs on no controller."
    if kind == _CARD and _rasd(item, "Connection") not in networks:
        yield f"Item {number} is connected to a network that is not declared."


def _positive(text: str) -> bool:
    return text.isdigit() and int(text) > 0


def _twice(what: str, names: list[str]) -> Iterator[str]:
    yield from (f"Two of one {what}: {name!r}." for name, count in Counter(names).items() if count > 1)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    return _file(archive, member).read(_TEXT_LIMIT)


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    if file is None:
        raise tarfile.ReadError(f"{member.name} is no file")
    return file


def _of(element: Xml.Element, name: str) -> str:
    return element.get(f"{{{OVF}}}{name}", "")


def _rasd(element: Xml.Element, name: str) -> str:
    return element.findtext(f"{{{RASD}}}{name}", "")


def _ovf(name: str) -> str:
    return f"{{{OVF}}}{name}"
