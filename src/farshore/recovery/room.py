"""Compare a site's capacity with the needs of machines. Pure.

QEMU and similar programs start a machine that is larger than its host. The consequences are a warning; only what
prevents a start is an error.
"""

from __future__ import annotations

from collections.abc import Sequence

from farshore.api_types.machines import Description
from farshore.api_types.targets import Obstacle, SiteCapacity, SiteDemand, TargetSeverity
from farshore.model.target import MachineTarget
from farshore.sites.port import Capacity, DeliveryWish, Way

LEAST_DISK = 64 << 20
"""Bytes without which no machine starts: its own files, and its first writes."""
_MIB = 1 << 20

Wanted = tuple[Description, MachineTarget]


def wanting(
    name: str, description: Description, target: MachineTarget, capacity: Capacity, delivery: DeliveryWish
) -> list[Obstacle]:
    """Return what one machine would lack at a site where nothing else starts."""
    processors, memory, disk = _takes((description, target))
    found = []
    if capacity.processors is not None and processors > capacity.processors:
        found.append(
            _warning(
                "processors",
                f"{name} is to have {processors} processors; the site has {capacity.processors}.",
                f"Choose fewer: farshore machine target set {name} --processors {capacity.processors}",
            )
        )
    if capacity.memory is not None and memory > capacity.memory:
        found.append(
            _warning(
                "memory",
                f"{name} is to have {memory // _MIB} MiB of memory; the site has {capacity.memory // _MIB} MiB in all.",
                f"Choose less: farshore machine target set {name} --memory MIB",
            )
        )
    elif capacity.memory_free is not None and memory > capacity.memory_free:
        found.append(
            _warning(
                "memory",
                f"{name} is to have {memory // _MIB} MiB of memory; {capacity.memory_free // _MIB} MiB are free at the "
                "site: it starts, but may be killed when it uses more.",
                f"Free memory there, or choose less: farshore machine target set {name} --memory MIB",
            )
        )
    free = capacity.disk_free
    if free is not None and free < LEAST_DISK:
        found.append(
            Obstacle(
                subject="disk",
                severity=TargetSeverity.ERROR,
                message=f"The site's disk is full: {free // _MIB} MiB are free.",
                remedy="Free space in the site's folder on the configuration server's host.",
            )
        )
    elif free is not None and disk > free:
        what = "only their data is written, which may not fit"
        if delivery.way is Way.SERVED:
            what = "it starts, and pauses when its writes, or the data hydrated after a commit, no longer fit"
        found.append(
            _warning(
                "disk",
                f"The disks of {name} have {disk // _MIB} MiB; {free // _MIB} MiB are free at the site: {what}.",
                "Free space there, or choose another site: farshore machine target set --site",
            )
        )
    return found


def wanting_together(wanted: Sequence[Wanted], capacity: Capacity) -> list[Obstacle]:
    """Return what the site would lack if all of these came up at once."""
    taken, number = demand(wanted), len(wanted)
    found = []
    if capacity.memory is not None and taken.memory > capacity.memory:
        message = f"The {number} machines are to have {taken.memory // _MIB} MiB of memory together; the site has "
        found.append(
            Obstacle(
                subject="memory",
                severity=TargetSeverity.ERROR,
                message=f"{message}{capacity.memory // _MIB} MiB: they cannot all run at once.",
                remedy="Change the site or the memory of some: farshore machine target set MACHINE --site, --memory",
            )
        )
    if capacity.processors is not None and taken.processors > capacity.processors:
        message = f"The {number} machines are to have {taken.processors} processors together; the site has "
        remedy = "They run, but slower. Or move some to another site: farshore machine target set --site"
        found.append(_warning("processors", f"{message}{capacity.processors}.", remedy))
    if capacity.disk_free is not None and taken.disk > capacity.disk_free:
        message = f"The disks of the {number} machines have {taken.disk // _MIB} MiB together; "
        remedy = "They do not all fit once they are hydrated: free space there, or move some to another site."
        found.append(_warning("disk", f"{message}{capacity.disk_free // _MIB} MiB are free at the site.", remedy))
    if capacity.addresses is not None and number > capacity.addresses:
        message = f"The site has {capacity.addresses} addresses for {number} machines."
        found.append(_warning("addresses", message, "Widen the range of its network, or move some to another site."))
    return found


def demand(wanted: Sequence[Wanted]) -> SiteDemand:
    """Return the combined needs of these machines."""
    each = [_takes(one) for one in wanted]
    return SiteDemand(
        machines=len(each),
        processors=sum(processors for processors, _, _ in each),
        memory=sum(memory for _, memory, _ in each),
        disk=sum(disk for _, _, disk in each),
    )


def shown(capacity: Capacity) -> SiteCapacity:
    """Return a capacity as the API's type."""
    return SiteCapacity(
        processors=capacity.processors,
        memory=capacity.memory,
        memory_free=capacity.memory_free,
        disk_free=capacity.disk_free,
        addresses=capacity.addresses,
    )


def _takes(wanted: Wanted) -> tuple[int, int, int]:
    """Return the number of processors, and bytes of memory and of disks."""
    description, target = wanted
    disks = sum(disk.size for disk in description.disks if not disk.excluded)
    return target.processors or description.processors, target.memory or description.memory, disks


def _warning(subject: str, message: str, remedy: str) -> Obstacle:
    return Obstacle(subject=subject, severity=TargetSeverity.WARNING, message=message, remedy=remedy)
