"""Describe this machine's hardware from sysfs, DMI and /proc: everything that a recovery site needs to build it
again."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import Dict, List, Sequence

from farshore.api_types.body import clean_line
from farshore.api_types.machines import MOST_ADDRESSES, MOST_DISKS, MOST_NICS, Description, Disk, Nic
from farshore.mobility.control.boot_entries import boot_entries
from farshore.mobility.copying.protected_disks import ProtectedDisk
from farshore.model.errors import Refused
from farshore.model.machine import Firmware

_DMI_UUID = Path("/sys/class/dmi/id/product_uuid")
_EFI = Path("/sys/firmware/efi")
_NETWORK = Path("/sys/class/net")
_RELEASE = Path("/etc/os-release")
_MEMORY = Path("/proc/meminfo")


def describe(disks: Sequence[ProtectedDisk], left_out: Sequence[ProtectedDisk] = ()) -> Description:
    """Return the description of the machine now, with these disks and those that are excluded on purpose. Raises
    Refused for too many disks."""
    if len(disks) + len(left_out) > MOST_DISKS:
        raise Refused(
            f"This machine has {len(disks) + len(left_out)} disks, excluded ones too; the limit is {MOST_DISKS}.",
            remedy="Name those to protect: farshore machine add --disk, or the agent's --disk.",
        )
    return Description(
        hostname=clean_line(socket.gethostname()),
        firmware=Firmware.UEFI if _EFI.exists() else Firmware.BIOS,
        processors=os.cpu_count() or 1,
        memory=_memory(),
        operating_system=_release().get("PRETTY_NAME", platform.system()),
        kernel=platform.release(),
        architecture=platform.machine(),
        hardware_id=hardware_id(),
        disks=[
            Disk(
                number=one.number,
                name=one.disk.name,
                size=one.disk.size,
                logical_block_size=one.disk.logical_block_size,
                serial=one.disk.serial,
                boot=one.boot,
                excluded=one in left_out,
            )
            for one in sorted((*disks, *left_out), key=lambda one: one.number)
        ],
        nics=_nics(),
        boot_entries=boot_entries(),
    )


def hardware_id() -> str:
    """Return the DMI UUID; empty if the firmware reports none, or only zeroes or ones."""
    try:
        found = _DMI_UUID.read_text(encoding="ascii").strip().lower()
    except OSError:
        return ""
    return "" if len(set(found.replace("-", ""))) < 2 else found


def _memory() -> int:
    for line in _MEMORY.read_text(encoding="ascii").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _release() -> Dict[str, str]:
    try:
        lines = _RELEASE.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {name: value.strip("\"'") for name, value in pairs}


def _nics() -> List[Nic]:
    """Return the hardware cards, with their addresses if ``ip`` is there to list them."""
    addresses = _addresses()
    found: List[Nic] = []
    for card in sorted(_NETWORK.iterdir()):
        with contextlib.suppress(OSError):  # a card may be pulled out as well
            if (card / "device").exists():
                mac = (card / "address").read_text(encoding="ascii").strip()
                found.append(Nic(name=card.name, mac=mac, addresses=addresses.get(card.name, [])[:MOST_ADDRESSES]))
    return found[:MOST_NICS]


def _addresses() -> Dict[str, List[str]]:
    try:
        shown = subprocess.run(["ip", "-json", "address"], capture_output=True, check=True, timeout=10).stdout
        return {
            str(card.get("ifname")): [f"{one['local']}/{one['prefixlen']}" for one in card.get("addr_info", [])]
            for card in json.loads(shown)
        }
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):  # without iproute2 there are no addresses
        return {}
