"""Check the disks: how each is attached, and which ways of writing to it bypass the capture."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterator, List, Sequence

from farshore.api_types.machines import Finding
from farshore.mobility.capture.disks import SYS_BLOCK, SYS_DEVICES, Disk
from farshore.mobility.checks.findings import error, fine, warning
from farshore.mobility.copying.named_disks import present
from farshore.model.errors import Refused
from farshore.model.machine import refuse_too_many

NETWORK = ("nbd", "rbd", "drbd")
_FABRICS = ("tcp", "rdma", "fc")


def check_disks(disks: Sequence[Disk]) -> Iterator[Finding]:
    """Yield the findings. ``disks``: those that are protected."""
    try:
        refuse_too_many("The machine", len(disks))
    except Refused as refused:
        yield error("disks", refused.message, refused.remedy)
    for disk in disks:
        found = list(_check_disk(disk))
        kind = transport(disk)
        yield from found or [fine(f"disk {disk.name}", f"Attached by {kind}." if kind else "No problem was found.")]
    yield from _same_disk_twice(disks)
    for place in sorted(SYS_BLOCK.iterdir()):
        if place.name.startswith(NETWORK) and _text(place / "size") not in ("", "0"):
            yield warning(
                f"disk {place.name}",
                "A network block device: it is not protected, because its data is on another machine.",
                "Protect the machine that has the data, or name the device with --disk.",
            )


def check_named(given: Sequence[Path]) -> Iterator[Finding]:
    """Yield a finding for each path of ``--disk`` without a disk."""
    for path in given:
        if present(path) is None:
            yield error(
                f"disk {path}",
                "It was named with --disk but is missing, so it is not protected now.",
                "Attach it again, or start the agent without it.",
            )


def transport(disk: Disk) -> str:
    """Return how a disk is attached, according to sysfs; empty if that is not known."""
    place = _place(disk)
    path = str(place)
    if "/session" in path:
        return "iSCSI"
    if place.name.startswith("nvme"):
        return f"NVMe over {_fabric(place)}" if _fabric(place) else "NVMe"
    for mark, name in (("/usb", "USB"), ("/virtio", "virtio"), ("/ata", "ATA"), ("/mmc", "MMC"), ("/rport-", "FC")):
        if mark in path:
            return name
    return "SCSI" if (place / "device" / "vendor").exists() else ""


def _check_disk(disk: Disk) -> Iterator[Finding]:
    subject, place = f"disk {disk.name}", _place(disk)
    if transport(disk) == "iSCSI" or _fabric(place):
        yield warning(
            subject,
            f"It is attached by {transport(disk)}: its data is on a storage system, where others may write to it.",
            "This machine's writes are captured. Make sure that nobody else writes to it, or exclude it.",
        )
    if _text(place / "removable") == "1" or transport(disk) == "USB":
        yield warning(subject, "It can be removed.", "Exclude it if it does not belong to the machine.")
    for holder in sorted((place / "holders").glob("*")):
        if _text(holder / "dm" / "uuid").startswith("mpath-"):
            yield error(
                subject,
                f"It is one path of the multipath device {holder.name}; each path carries only a part of the writes.",
                "Multipath disks cannot be protected yet: use one path, or protect at the storage system.",
            )
    if _text(place / "queue" / "zoned") not in ("", "none"):
        yield warning(
            subject,
            f"A zoned disk ({_text(place / 'queue' / 'zoned')}): zone appends are only noted in the bitmap.",
            "Expect capture to heal often there; a conventional disk has no such limit.",
        )
    if (place / "queue" / "logical_block_size").exists() and not (place / "mq").exists():
        yield warning(
            subject,
            "Its driver takes no requests (as NVMe multipath): each write that is refused (RWF_NOWAIT) costs a heal.",
            "No action is needed if no program writes this way. With one path only, boot with nvme_core.multipath=N.",
        )
    if _text(place / "queue" / "iostats") == "0":
        yield warning(
            subject,
            "Its kernel statistics are switched off, so writes that escape the capture would not be noticed.",
            f"Switch them on: echo 1 > {place}/queue/iostats",
        )
    if (place / "device" / "scsi_generic").exists():
        told = "After a command sent straight to it (SG_IO) that may change it, the whole disk is compared."
        yield fine(subject, told)


def _same_disk_twice(disks: Sequence[Disk]) -> Iterator[Finding]:
    by_identity: Dict[str, List[str]] = {}
    for disk in disks:
        if disk.wwid:
            by_identity.setdefault(disk.wwid, []).append(disk.name)
    for names in by_identity.values():
        if len(names) > 1:
            yield error(
                f"disks {', '.join(names)}",
                "They are paths to the same disk.",
                "Multipath disks cannot be protected yet: exclude all paths but one, and write through that one only.",
            )


def _fabric(place: Path) -> str:
    found = _text(place / "device" / "transport")
    return found if found in _FABRICS else ""


def _place(disk: Disk) -> Path:
    return (SYS_DEVICES / disk.device).resolve()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # not every disk has every attribute
        return ""
