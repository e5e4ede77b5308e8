"""Machine descriptions as JSON documents (docs/formats/description.md)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from farshore.model.errors import Damaged
from farshore.model.identifiers import DiskNumber
from farshore.model.machine import DiskDescription, Firmware, MachineDescription, NicDescription


def to_fields(description: MachineDescription) -> dict[str, Any]:
    """Return the document."""
    return {**asdict(description), "firmware": description.firmware.value, "format": 1}


def from_fields(fields: dict[str, Any], name: str) -> MachineDescription:
    """Read the document ``name``; fields of later versions are passed over. Raises Damaged."""
    try:
        return MachineDescription(
            hostname=str(fields["hostname"]),
            firmware=Firmware(fields["firmware"]),
            processors=int(fields["processors"]),
            memory=int(fields["memory"]),
            operating_system=str(fields["operating_system"]),
            kernel=str(fields["kernel"]),
            architecture=str(fields["architecture"]),
            hardware_id=str(fields.get("hardware_id", "")),
            disks=tuple(
                DiskDescription(
                    number=DiskNumber(int(disk["number"])),
                    name=str(disk["name"]),
                    size=int(disk["size"]),
                    logical_block_size=int(disk.get("logical_block_size", 512)),
                    serial=str(disk.get("serial", "")),
                    boot=bool(disk.get("boot", False)),
                    excluded=bool(disk.get("excluded", False)),
                )
                for disk in fields["disks"]
            ),
            nics=tuple(
                NicDescription(str(nic["name"]), str(nic["mac"]), tuple(str(item) for item in nic["addresses"]))
                for nic in fields["nics"]
            ),
            boot_entries=tuple(bytes.fromhex(entry).hex() for entry in fields.get("boot_entries", ())),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as cause:
        raise Damaged(f"{name} does not describe a machine.", remedy="Run `farshore vault verify`.") from cause
