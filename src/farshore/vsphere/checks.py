"""Find what prevents the protection of a machine, as far as its VMware server can tell. The agent checks the rest.

Farshore's agent runs in the guest and copies what the guest writes. So three things matter: whether the agent supports
the guest, whether others write to the same disks, and whether we can reach the guest and shut it down.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from farshore.api_types.machines import CheckSeverity, Finding
from farshore.api_types.vmware import DiskBacking, VmwareDisk, VmwareMachine

_LINUX = re.compile(
    r"linux|debian|ubuntu|rhel|red ?hat|centos|alma|rocky|sles|suse|oracle ?linux|fedora|photon|amazon|coreos|mandrake",
    re.IGNORECASE,
)
_OTHER_SYSTEM = re.compile(
    r"win(dows|net|xp|vista|longhorn|\d)|freebsd|solaris|darwin|mac ?os|netware|unixware|vmkernel", re.IGNORECASE
)
_WORTH = (CheckSeverity.ERROR, CheckSeverity.WARNING)
_HERE = "this machine"


def findings(machine: VmwareMachine) -> list[Finding]:
    """Return every finding, errors first. If there is none, return one that says so."""
    found = [*_state(machine), *_guest(machine), *_boot(machine), *_disks(machine), *_tools(machine), *_rights(machine)]
    if not found:
        return [Finding(subject=_HERE, severity=CheckSeverity.OK, message="No problem was found.")]
    return sorted(found, key=lambda one: _WORTH.index(one.severity))


def reachable_addresses(machine: VmwareMachine) -> list[str]:
    """Return the guest's addresses that another machine can reach: the first one that the tools name, then IPv4 before
    IPv6."""
    known = [one for one in (machine.address, *machine.addresses) if one]
    usable = [one for one in dict.fromkeys(known) if _is_reachable(one)]
    return sorted(usable, key=lambda one: ipaddress.ip_address(one).version)


def _is_reachable(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_link_local or address.is_loopback or address.is_multicast or address.is_unspecified)


def _error(subject: str, message: str, remedy: str) -> Finding:
    return Finding(subject=subject, severity=CheckSeverity.ERROR, message=message, remedy=remedy)


def _warning(subject: str, message: str, remedy: str) -> Finding:
    return Finding(subject=subject, severity=CheckSeverity.WARNING, message=message, remedy=remedy)


def _state(machine: VmwareMachine) -> Iterator[Finding]:
    if machine.template:
        yield _error(_HERE, "The machine is a template.", "Convert it to a virtual machine, or do not protect it.")
    elif machine.state not in ("", "connected"):
        yield _error(
            _HERE,
            f"The VMware server reports the machine as {machine.state}.",
            "Make its host and datastore accessible first.",
        )
    elif machine.power != "poweredOn":
        yield _error(
            _HERE, "The machine is not powered on.", "Power it on: the mobility service is installed in the guest."
        )


def _guest(machine: VmwareMachine) -> Iterator[Finding]:
    # What the tools found is more reliable than what somebody once configured.
    said = machine.guest_found or f"{machine.guest_id} {machine.guest}"
    name = machine.guest_found or machine.guest or machine.guest_id or "an unknown system"
    if _OTHER_SYSTEM.search(said) and not _LINUX.search(said):
        yield _error(
            "guest system", f"The machine runs {name}.", "Use another product for it: Farshore protects Linux only."
        )
    elif not _LINUX.search(said):
        yield _warning(
            "guest system",
            f"The machine is configured for {name}.",
            "Check that it runs Linux for x86_64. The agent checks this too.",
        )
    elif machine.guest_id and "64" not in machine.guest_id:
        yield _warning("guest system", f"The machine is configured as a 32-bit system ({machine.guest_id}).",
                       "Check that it is x86_64 (uname -m): the mobility service runs only there.")  # fmt: skip


def _boot(machine: VmwareMachine) -> Iterator[Finding]:
    if machine.firmware not in ("", "bios", "efi"):
        yield _error("boot", f"The machine's firmware is {machine.firmware}.", "Only BIOS and EFI can be recovered.")
    if machine.secure_boot:
        yield _warning(
            "boot", "Secure Boot is on.", "Run a test failover: a site may start the machine without Secure Boot."
        )


def _disks(machine: VmwareMachine) -> Iterator[Finding]:
    if not machine.disks:
        yield _error(
            "disks",
            "The machine has no virtual disk.",
            "Add one, or check that the account may read the machine's devices.",
        )
    for disk in machine.disks:
        yield from _disk(disk)
    if machine.snapshots:
        yield _warning(
            "disks",
            f"It has {machine.snapshots} snapshots: each slows its disks down, and reverting to one changes them under "
            "the agent, which then copies them again.",
            "Delete them, and revert to none while it is protected.",
        )
    if machine.encrypted:
        yield _warning(
            "disks",
            "The machine is encrypted by vSphere. Farshore copies decrypted data, and seals it with the vault's key.",
            "Check that the recovery site may store this data; encrypt the storage there if required.",
        )


def _disk(disk: VmwareDisk) -> Iterator[Finding]:
    if disk.shared or disk.shared_bus not in ("", "noSharing"):
        how = "multi-writer" if disk.shared else f"bus sharing: {disk.shared_bus}"
        yield _error(
            disk.label,
            f"Other machines may write to the disk ({how}); the agent cannot see that.",
            "Stop sharing the disk, or name only the other disks: farshore vmware protect --disk /dev/sda",
        )
    if disk.backing in (DiskBacking.RDM_PHYSICAL, DiskBacking.RDM_VIRTUAL):
        kind = "physical" if disk.backing is DiskBacking.RDM_PHYSICAL else "virtual"
        yield _warning(
            disk.label,
            f"The disk is a raw device mapping ({kind} mode). It is protected, and recovered as a normal disk.",
            "If its storage array protects it, exclude it by naming the others with --disk.",
        )
    elif disk.backing is DiskBacking.OTHER:
        yield _warning(disk.label, "The disk's backing is of an unknown kind.", "Run a test failover.")
    if disk.mode.endswith("nonpersistent"):
        yield _warning(
            disk.label,
            f"The disk's mode is {disk.mode}: at power-off vSphere discards writes to it, but the copy keeps them.",
            "Make the disk persistent, or exclude it by naming the others with --disk.",
        )
    elif disk.mode.startswith("independent"):
        yield _warning(
            disk.label,
            "The disk is independent: vSphere snapshots exclude it, recovery points include it.",
            "No action is needed.",
        )


def _tools(machine: VmwareMachine) -> Iterator[Finding]:
    if machine.power != "poweredOn" or machine.template:
        return  # the tools do not run then
    if machine.tools not in ("guestToolsRunning", ""):
        yield _warning(
            "VMware tools", "VMware tools do not run.", "In the guest: apt-get install open-vm-tools (or dnf, zypper)."
        )
    if not reachable_addresses(machine):
        yield _warning(
            "network", "The VMware server reports no reachable address.", "Name it: farshore vmware protect --address"
        )


def _rights(machine: VmwareMachine) -> Iterator[Finding]:
    if machine.unread:
        yield _warning(
            "privileges",
            f"Not readable with this account: {', '.join(machine.unread)}.",
            "Give the account's role System.Read where the machine is, with propagation.",
        )
