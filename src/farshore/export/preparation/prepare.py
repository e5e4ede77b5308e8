"""Prepare a guest: boot the appliance over the disks of its copy and let ``inside`` do the work.

If it is interrupted, the disks may be partly changed: each file is complete, but not all of them may be changed. If a
guest could not be prepared, the caller gives it its original disks, if possible.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from farshore.export import appliance
from farshore.export.files.inside import CHARACTERS, FRAME, HERE, REQUEST, SERIAL
from farshore.export.preparation import inside
from farshore.export.preparation.wish import Report, Wish
from farshore.model.errors import Refused
from farshore.model.identifiers import DiskNumber

START_SECONDS, WORK_SECONDS = 180.0, 900.0
_POLL_SECONDS = 0.5
_MOST_ANSWER = 16 << 20
_CONSOLE_LINES = 3
_MOST_LINES, _MOST_LETTERS = 200, 500
_CONTENTS = appliance.Contents(
    script=Path(inside.__file__),
    programs=("mount", "umount", "blkid", "vgchange", "mdadm"),
    modules=(
        *("ext4", "xfs", "btrfs", "vfat", "f2fs", *CHARACTERS, "crc32c_generic", "crc32c-intel"),
        *("dm-mod", "dm-snapshot", "dm-thin-pool", "dm-mirror", "dm-raid", "raid0", "raid1", "raid10", "raid456"),
    ),
    folders=(f"{HERE}/tree",),
    package=Path(inside.__file__).parents[3],
)

Watch = Callable[[str], None]
"""Receives the present step, every half second; it raises to end the work."""


def prepare(disks: Sequence[tuple[DiskNumber, appliance.Disk]], wish: Wish, watch: Watch) -> Report:
    """Do as the wish says. Raises Refused with the reason if the guest cannot be prepared, what ``watch`` raises."""
    if lacks := appliance.missing():
        raise Refused(f"The appliance needs {', '.join(lacks)}.", remedy="Install these packages on this host.")
    with tempfile.TemporaryDirectory(prefix="farshore-prepare-") as folder:
        watch("the appliance starts")
        try:
            running = appliance.start(_CONTENTS, [disk for _, disk in disks], Path(folder), START_SECONDS)
        except appliance.DidNotStart as error:
            raise _refused(f"The appliance did not start: {_last(str(error))}") from error
        with running:
            request = {"disks": [number for number, _ in disks], "wish": asdict(wish)}
            try:
                answer = _answer(running, json.dumps(request).encode(), watch)
            except ConnectionError as error:
                raise _refused(f"The appliance ended: {_last(running.console())}") from error
    if "error" in answer:
        lines = str(answer["message"]).strip().splitlines()
        raise _refused(lines[-1] if answer["error"] == "fault" else " ".join(lines))
    try:
        return Report(_plain(answer["system"]), _lines(answer["changes"]), _lines(answer["warnings"]))
    except (KeyError, TypeError) as error:
        raise _refused("The appliance's answer has an unknown form.") from error


def served_disk(place: int, socket: Path, export: str, sector_size: int = 512) -> appliance.Disk:
    """Return a disk of an NBD server for the appliance: the ``place``-th disk."""
    return appliance.Disk(socket, f"{SERIAL}{place}", export, sector_size=sector_size)


def written_disk(place: int, file: Path, sector_size: int = 512, image: str = "") -> appliance.Disk:
    """Return the same for a file: a raw one, or an image of this format."""
    return appliance.Disk(file, f"{SERIAL}{place}", raw=True, image=image, sector_size=sector_size)


def _answer(running: appliance.Running, request: bytes, watch: Watch) -> dict[str, Any]:
    running.wire.settimeout(_POLL_SECONDS)
    running.wire.sendall(FRAME.pack(REQUEST, len(request)) + request)
    end = time.monotonic() + WORK_SECONDS

    def read(length: int) -> bytes:
        heard = b""
        while len(heard) < length:
            try:
                piece = running.wire.recv(min(length - len(heard), 1 << 20))
            except TimeoutError:
                watch("the guest's files are changed")
                if time.monotonic() > end:
                    raise _refused(f"It was not done within {WORK_SECONDS:.0f} s.") from None
                continue
            if not piece:
                raise ConnectionResetError
            heard += piece
        return heard

    _, length = FRAME.unpack(read(FRAME.size))
    if length > _MOST_ANSWER:
        raise _refused("Its answer is too long.")
    try:
        found = json.loads(read(length))
    except ValueError as error:
        raise _refused("The appliance's answer has an unknown form.") from error
    if not isinstance(found, dict):
        raise _refused("The appliance's answer has an unknown form.")
    return found


def _lines(told: list[object]) -> tuple[str, ...]:
    return tuple(_plain(one) for one in told[:_MOST_LINES])


def _plain(told: object) -> str:
    """Clean a text for people: the guest influenced it, so it is limited and cannot control a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(told)[:_MOST_LETTERS])


def _refused(why: str) -> Refused:
    return Refused(
        _plain(why), remedy="Prepare the machine at its source, or set its target to the hardware of the source."
    )


def _last(console: str) -> str:
    return " / ".join(console.strip().splitlines()[-_CONSOLE_LINES:])[-400:] or "there was no output"
