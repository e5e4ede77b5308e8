"""What keeps a machine from being protected, as far as its VMware server can tell: the rest the agent looks for.

Farshore's agent runs in the guest and copies what the guest writes. So what matters is whether the guest is one that
the agent runs on, whether others write to the same disks, and whether we can reach it and shut it down in order.
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
    """Every finding, errors first; one that says so where there is nothing to say."""
    found = [*_state(machine), *_guest(machine), *_boot(machine), *_disks(machine), *_tools(machine), *_rights(machine)]
    if not found:
        return [Finding(subject=_HERE, severity=CheckSeverity.OK, message="Nothing stands in the way.")]
    return sorted(found, key=lambda one: _WORTH.index(one.severity))


def reachable_addresses(machine: VmwareMachine) -> list[str]:
    """The guest's addresses that another machine can reach, the first one that the tools name first, IPv4 before
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
        yield _error(_HERE, "It is a template.", "Make a machine of it (Convert to Virtual Machine), or leave it out.")
    elif machine.state not in ("", "connected"):
        yield _error(_HERE, f"Its server calls it {machine.state}.", "Bring its host and datastore back first.")
    elif machine.power != "poweredOn":
        yield _error(_HERE, "It is not powered on.", "Power it on: the mobility service is installed in the guest.")


def _guest(machine: VmwareMachine) -> Iterator[Finding]:
    # What the tools found counts more than what somebody chose once.
    said = machine.guest_found or f"{machine.guest_id} {machine.guest}"
    name = machine.guest_found or machine.guest or machine.guest_id or "an unknown system"
    if _OTHER_SYSTEM.search(said) and not _LINUX.search(said):
        yield _error("guest system", f"It runs {name}.", "Protect it by another product: Farshore protects Linux.")
    elif not _LINUX.search(said):
        yield _warning(
            "guest system", f"It is set up for {name}.", "See that it runs Linux for x86_64; the agent checks it too."
        )
    elif machine.guest_id and "64" not in machine.guest_id:
        yield _warning("guest system", f"It is set up as a 32-bit system ({machine.guest_id}).",
                       "See that it is x86_64 (uname -m): the mobility service runs there only.")  # fmt: skip


def _boot(machine: VmwareMachine) -> Iterator[Finding]:
    if machine.firmware not in ("", "bios", "efi"):
        yield _error("boot", f"Its firmware is {machine.firmware}.", "Only BIOS and EFI can be recovered.")
    if machine.secure_boot:
        yield _warning("boot", "Secure Boot is on.", "Try it by a test failover: sites may start it without.")


def _disks(machine: VmwareMachine) -> Iterator[Finding]:
    if not machine.disks:
        yield _error("disks", "It has no virtual disk.", "Add one, or see that the account may read its devices.")
    for disk in machine.disks:
        yield from _disk(disk)
    if machine.snapshots:
        yield _warning(
            "disks",
            f"It has {machine.snapshots} snapshots: each slows its disks down, and reverting to one changes them under "
            "the agent, which then copies them anew.",
            "Delete them, and revert to none while it is protected.",
        )
    if machine.encrypted:
        yield _warning(
            "disks",
            "It is encrypted by vSphere. What the guest reads is copied, and encrypted with the vault's key.",
            "See that the recovery site may hold it; encrypt its storage there if it must be.",
        )


def _disk(disk: VmwareDisk) -> Iterator[Finding]:
    if disk.shared or disk.shared_bus not in ("", "noSharing"):
        how = "multi-writer" if disk.shared else f"bus sharing: {disk.shared_bus}"
        yield _error(
            disk.label,
            f"Other machines may write to it ({how}), unseen by the agent.",
            "Stop sharing it, or name the other disks only: farshore vmware protect --disk /dev/sda",
        )
    if disk.backing in (DiskBacking.RDM_PHYSICAL, DiskBacking.RDM_VIRTUAL):
        kind = "physical" if disk.backing is DiskBacking.RDM_PHYSICAL else "virtual"
        yield _warning(
            disk.label,
            f"It is a raw device mapping ({kind} mode). It is protected, and recovered as an ordinary disk.",
            "Leave it out, by naming the others with --disk, if its storage array protects it.",
        )
    elif disk.backing is DiskBacking.OTHER:
        yield _warning(disk.label, "Its backing is of an unknown kind.", "Try it by a test failover.")
    if disk.mode.endswith("nonpersistent"):
        yield _warning(
            disk.label,
            f"Its mode is {disk.mode}: at power-off vSphere forgets what was written to it, its copy does not.",
            "Make it persistent, or leave it out by naming the others with --disk.",
        )
    elif disk.mode.startswith("independent"):
        yield _warning(
            disk.label,
            "It is independent: snapshots of vSphere leave it out. Recovery points do not.",
            "Nothing has to be done.",
        )


def _tools(machine: VmwareMachine) -> Iterator[Finding]:
    if machine.power != "poweredOn" or machine.template:
        return  # they do not run then
    if machine.tools not in ("guestToolsRunning", ""):
        yield _warning(
            "VMware tools", "They do not run.", "In the guest: apt-get install open-vm-tools (or dnf, zypper)."
        )
    if not reachable_addresses(machine):
        yield _warning(
            "network", "No address is reported that can be reached.", "Name it: farshore vmware protect --address"
        )


def _rights(machine: VmwareMachine) -> Iterator[Finding]:
    if machine.unread:
        yield _warning(
            "privileges",
            f"Not readable with this account: {', '.join(machine.unread)}.",
            "Give the account's role System.Read where the machine is, with propagation.",
        )
