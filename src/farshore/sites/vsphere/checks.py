"""Find orders that a vSphere site clearly cannot carry out, and list the privileges that it needs. Pure."""

from __future__ import annotations

from farshore.model.errors import Refused
from farshore.model.target import NetworkKind
from farshore.sites.port import RecoveryOrder
from farshore.sites.vsphere.images import GRAIN
from farshore.vsphere.building import MOST_CARDS, MOST_DISKS
from farshore.vsphere.placing import Places
from farshore.vsphere.power import POWER

_SECTOR = 512


def check_order(order: RecoveryOrder, *, attaches: bool) -> None:
    """Raise Refused for an order that no server could carry out. ``attaches``: disks are written in place."""
    if not order.disks:
        raise Refused(f"{order.name} has no disk to start from.", remedy="Choose a point with its disks.")
    if len(order.disks) > MOST_DISKS or len(order.machine.nics) > MOST_CARDS:
        raise Refused(
            f"{order.name} has {len(order.disks)} disks and {len(order.machine.nics)} cards; a machine at vSphere has "
            f"{MOST_DISKS} and {MOST_CARDS} at most.",
            remedy="Use a site of kind qemu or libvirt.",
        )
    if order.forward:
        raise Refused(
            f"vSphere forwards no ports of this host, but the order of {order.name} asks for some.",
            remedy="Omit --forward and use the machine's own address.",
        )
    if order.bubble:
        raise Refused(
            f"Test networks such as {order.bubble} do not exist at vSphere.", remedy="Run the test without --network."
        )
    if any(disk.logical_block_size != _SECTOR for disk in order.disks):
        raise Refused(
            f"A disk of {order.name} has sectors of 4096 bytes; those of vSphere have 512.",
            remedy="Use a site of kind qemu or libvirt.",
        )
    if not attaches:
        check_import(order)


def check_import(order: RecoveryOrder) -> None:
    """Raise Refused for disks that an import does not accept."""
    if any(disk.size % GRAIN for disk in order.disks):
        raise Refused(
            f"The size of a disk of {order.name} is not a multiple of 64 KiB, which an import needs.",
            remedy="Attach the disks to this server's machine instead: farshore site add … --setting proxy=UUID",
        )


def check_networks(order: RecoveryOrder, places: Places) -> None:
    """Raise Refused for a network that does not exist, or if the datastore is not accessible."""
    for number, network in order.networks.items():
        if network.kind is not NetworkKind.NETWORK or network.name not in places.networks:
            wanted = f"{network.kind.value} {network.name}"
            raise Refused(
                f"Card {number + 1} of {order.name} is to be on {wanted}, which does not exist.",
                remedy="Choose another: farshore machine target set MACHINE --network network:NAME; there are: "
                f"{', '.join(sorted(places.networks))}",
            )
    if not places.accessible:
        raise Refused(f"The datastore {places.datastore} is not accessible.", remedy="Make it accessible first.")


def needed(*, attaches: bool) -> list[str]:
    """Return the privileges that the account needs, on the root folder with propagation."""
    machine = "VirtualMachine."
    return [
        "Datastore.AllocateSpace",
        "Network.Assign",
        "Resource.AssignVMToPool",
        *POWER,
        f"{machine}Interact.PowerOn",
        f"{machine}Inventory.Create",
        f"{machine}Inventory.Delete",
        f"{machine}Config.AddNewDisk",
        f"{machine}Config.AdvancedConfig",
        f"{machine}Config.RemoveDisk",
        "VApp.Import",
        *([f"{machine}Config.AddExistingDisk"] if attaches else []),
    ]
