"""The target of a machine at a recovery site, chosen before the disaster; and whether a failover there would work
now."""

from __future__ import annotations

import enum
from typing import Annotated, Dict, List, Optional

from pydantic import Field, StringConstraints

from farshore.api_types.body import Body, Label, Moment
from farshore.api_types.checks import Checks
from farshore.model.machine import Firmware
from farshore.model.target import DiskBus, NetworkKind, Preparation

Port = Annotated[int, Field(ge=1, le=65535)]
Forwards = Annotated[Dict[Port, Port], Field(max_length=256)]
MOST_CARDS = 32
TargetSite = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", max_length=32)]
TargetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", max_length=63)]
"""What a hypervisor accepts as a machine's name."""
NetworkName = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$", max_length=63)]
Tags = Annotated[Dict[TargetName, Label], Field(max_length=32)]
Processors = Annotated[int, Field(ge=1, le=1024)]
Memory = Annotated[int, Field(ge=64 << 20, le=1 << 44)]


class Network(Body):
    """farshore.model.target.TargetNetwork."""

    kind: NetworkKind = NetworkKind.ISOLATED
    name: NetworkName = ""
    addresses: List[Label] = Field(default=[], max_length=2, fail_fast=True)
    """At most one IPv4 and one IPv6 address in CIDR notation; none: those of the source's card."""
    keep_mac: bool = True
    dhcp: bool = False
    gateways: List[Label] = Field(default=[], max_length=2, fail_fast=True)
    nameservers: List[Label] = Field(default=[], max_length=4, fail_fast=True)


class CardDefault(Body):
    """The network of cards for which the machine chooses none."""

    kind: NetworkKind = NetworkKind.ISOLATED
    name: NetworkName = ""
    keep_mac: bool = True


class PolicyTarget(Body):
    """A policy's choices for its machines; None: no choice."""

    site: Optional[TargetSite] = None
    disk_bus: Optional[DiskBus] = None
    network: Optional[CardDefault] = None
    tags: Optional[Tags] = None
    prepare: Optional[Preparation] = None
    """Whether the copy of the guest is prepared for its target; None: as its policy says, otherwise if it differs."""
    ssh: Optional[bool] = None
    """Whether the guest must answer by SSH."""
    checks: Optional[Checks] = None
    """For the recovered machine, once it has come up; a machine's own checks replace its policy's."""


class Target(PolicyTarget):
    """A machine's choices; None: its policy's choice, otherwise as at the source. ``memory`` in bytes."""

    name: Optional[TargetName] = None
    processors: Optional[Processors] = None
    memory: Optional[Memory] = None
    firmware: Optional[Firmware] = None
    networks: Optional[List[Network]] = Field(default=None, max_length=MOST_CARDS, fail_fast=True)
    """By card, in the order of the source's; ``network`` is for further cards."""
    forward: Optional[Forwards] = None
    """Ports of the site's host, to ports of the guest."""


class TargetField(enum.Enum):
    """The values that may be chosen."""

    SITE = "site"
    NAME = "name"
    PROCESSORS = "processors"
    MEMORY = "memory"
    FIRMWARE = "firmware"
    DISK_BUS = "disk_bus"
    NETWORKS = "networks"
    NETWORK = "network"
    FORWARD = "forward"
    TAGS = "tags"
    PREPARE = "prepare"
    SSH = "ssh"
    CHECKS = "checks"


class TargetChange(Target):
    """``PATCH /v1/machines/{machine}/target``: only given values change. ``reset``: values to unset."""

    reset: List[TargetField] = Field(default=[], max_length=len(TargetField), fail_fast=True)


class TargetSeverity(enum.Enum):
    """How much it matters to a failover."""

    WARNING = "warning"
    """It would work, but not as it should."""
    ERROR = "error"
    """It would fail."""


class Obstacle(Body):
    """An obstacle to a failover, and what to do about it."""

    subject: str
    severity: TargetSeverity
    message: str
    remedy: str = ""


class Readiness(Body):
    """Whether a failover would work now."""

    works: Optional[bool] = None
    """None: unknown, because the site was not asked, or did not answer."""
    site: str = ""
    """Where it would come up."""
    checked: Moment = 0
    """When the site was last asked; 0: not yet by this server."""
    obstacles: List[Obstacle] = []


class MachineTargetView(Body):
    """``GET /v1/machines/{machine}/target``."""

    machine: str
    own: Target
    """The machine's own choices."""
    policy: str
    by_policy: PolicyTarget
    used: Target
    """What a failover would use: both combined, with unset values as at the source."""
    readiness: Readiness


class SiteCapacity(Body):
    """The capacity of a site. Bytes; None: no limit is known."""

    processors: Optional[int] = None
    memory: Optional[int] = None
    memory_free: Optional[int] = None
    disk_free: Optional[int] = None
    addresses: Optional[int] = None


class SiteDemand(Body):
    """What all protected machines whose target is this site would need there together."""

    machines: int = 0
    processors: int = 0
    memory: int = 0
    disk: int = 0
    """The full size of their disks: what they need once they are hydrated."""
