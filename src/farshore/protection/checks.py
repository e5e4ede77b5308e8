"""Find what prevents a good protection of a machine, from its agent's reports. Pure.

The agent checks the machine itself (farshore.mobility.checks); this module checks what can be known without it.
"""

from __future__ import annotations

from farshore.api_types.machines import CheckSeverity, Description, Finding, Heartbeat
from farshore.catalog.tables import MachineRow

SECOND = 1_000_000_000
SILENT_AFTER = 30 * SECOND
DATA_MODE_KERNEL = (5, 17)
ARCHITECTURES = frozenset({"x86_64", "amd64"})


def check_machine(row: MachineRow, now: int) -> list[Finding]:
    """Return one finding for each subject."""
    description = Description.model_validate(row.description)
    seen = Heartbeat.model_validate(row.heartbeat) if row.heartbeat else None
    return [
        _agent(row, now),
        _architecture(description),
        *(seen.findings if seen is not None and seen.findings else [_kernel(description, seen)]),
        *_disks(row, description),
        *_warnings(seen),
    ]


def _agent(row: MachineRow, now: int) -> Finding:
    if row.last_seen and now - row.last_seen <= SILENT_AFTER:
        return Finding(subject="mobility service", severity=CheckSeverity.OK, message="It reports.")
    return Finding(
        subject="mobility service",
        severity=CheckSeverity.ERROR,
        message="It has not reported lately." if row.last_seen else "It has never reported.",
        remedy="On the machine: systemctl status farshore-mobility",
    )


def _kernel(description: Description, seen: Heartbeat | None) -> Finding:
    if seen is not None and seen.mode is not None and seen.mode.value == "data":
        return Finding(
            subject="kernel", severity=CheckSeverity.OK, message=f"{description.kernel} captures in data mode."
        )
    parts = description.kernel.split("-")[0].split(".")[:2]
    version = tuple(int(part) for part in parts if part.isdigit())
    if len(version) == 2 and version >= DATA_MODE_KERNEL:
        return Finding(subject="kernel", severity=CheckSeverity.OK, message=f"{description.kernel} is new enough.")
    return Finding(
        subject="kernel",
        severity=CheckSeverity.WARNING,
        message=f"{description.kernel} may lack what data mode needs.",
        remedy="Use Linux 5.17 or newer to capture every write in order. Older kernels are protected with a "
        "longer RPO.",
    )


def _architecture(description: Description) -> Finding:
    if description.architecture in ARCHITECTURES:
        return Finding(subject="architecture", severity=CheckSeverity.OK, message=description.architecture)
    return Finding(
        subject="architecture",
        severity=CheckSeverity.ERROR,
        message=f"{description.architecture} is not supported.",
        remedy="This release protects x86-64 machines.",
    )


def _disks(row: MachineRow, description: Description) -> list[Finding]:
    excluded = set(row.exclude_disks)
    found = []
    for disk in description.disks:
        out = disk.excluded or disk.number in excluded
        found.append(
            Finding(
                subject=f"disk {disk.number} ({disk.name})",
                severity=CheckSeverity.WARNING if out else CheckSeverity.OK,
                message=f"{disk.size / (1 << 30):.1f} GiB{', excluded' if out else ''}",
                remedy="Include it again: farshore machine protect --include-disk" if out else "",
            )
        )
    if not any(disk.boot and not (disk.excluded or disk.number in excluded) for disk in description.disks):
        found.append(
            Finding(
                subject="disks",
                severity=CheckSeverity.ERROR,
                message="No protected disk is a boot disk: the machine would not start at the recovery site.",
                remedy="Include the boot disk: farshore machine protect --include-disk",
            )
        )
    return found


def _warnings(seen: Heartbeat | None) -> list[Finding]:
    warnings = seen.warnings if seen is not None else []
    return [Finding(subject="agent", severity=CheckSeverity.WARNING, message=text) for text in warnings]
