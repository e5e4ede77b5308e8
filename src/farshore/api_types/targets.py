"""What a machine is to be at a recovery site, chosen before the disaster; whether a failover there would work now."""

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
"""What a hypervisor takes for a machine's name."""
NetworkName = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$", max_length=63)]
Tags = Annotated[Dict[TargetName, Label], Field(max_length=32)]
Processors = Annotated[int, Field(ge=1, le=1024)]
Memory = Annotated[int, Field(ge=64 << 20, le=1 << 44)]


class Network(Body):
    """farshore.model.target.TargetNetwork."""

    kind: NetworkKind = NetworkKind.ISOLATED
    name: NetworkName = ""
    addresses: List[Label] = Field(default=[], max_length=2, fail_fast=True)
    """One IPv4 and one IPv6 address in CIDR notation at most; none: those of the source's card."""
    keep_mac: bool = True
    dhcp: bool = False
    gateways: List[Label] = Field(default=[], max_length=2, fail_fast=True)
    nameservers: List[Label] = Field(default=[], max_length=4, fail_fast=True)


class CardDefault(Body):
    """What cards lead to that no machine says anything of."""

    kind: NetworkKind = NetworkKind.ISOLATED
    name: NetworkName = ""
    keep_mac: bool = True


class PolicyTarget(Body):
    """What a policy chooses for its machines; None: it chooses nothing."""

    site: Optional[TargetSite] = None
    disk_bus: Optional[DiskBus] = None
    network: Optional[CardDefault] = None
    tags: Optional[Tags] = None
    prepare: Optional[Preparation] = None
    """Whether the copy of the guest is made ready for its target; None: as its policy says, else where it differs."""
    ssh: Optional[bool] = None
    """Whether the guest is to answer by SSH."""
    checks: Optional[Checks] = None
    """Of the recovered machine, once it has come up; a machine's own take the place of its policy's."""


class Target(PolicyTarget):
    """What a machine chooses; None: its policy's choice, else as at the source. ``memory`` in bytes."""

    name: Optional[TargetName] = None
    processors: Optional[Processors] = None
    memory: Optional[Memory] = None
    firmware: Optional[Firmware] = None
    networks: Optional[List[Network]] = Field(default=None, max_length=MOST_CARDS, fail_fast=True)
    """By card, in the order of the source's; ``network`` is for those beyond."""
    forward: Optional[Forwards] = None
    """Ports of the site's host, to ports of the guest."""


class TargetField(enum.Enum):
    """What may be chosen."""

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
    """``PATCH /v1/machines/{machine}/target``: only what is given changes. ``reset``: choose these no more."""

    reset: List[TargetField] = Field(default=[], max_length=len(TargetField), fail_fast=True)


class TargetSeverity(enum.Enum):
    """How much it matters to a failover."""

    WARNING = "warning"
    """It would work, and not be as it should."""
    ERROR = "error"
    """It would fail."""


class Obstacle(Body):
    """What stands in a failover's way, and what to do about it."""

    subject: str
    severity: TargetSeverity
    message: str
    remedy: str = ""


class Readiness(Body):
    """Whether a failover would work now."""

    works: Optional[bool] = None
    """None: not known, for the site has not been asked, or did not answer."""
    site: str = ""
    """Where it would come up."""
    checked: Moment = 0
    """When the site was asked last; 0: never yet by this server."""
    obstacles: List[Obstacle] = []


class MachineTargetView(Body):
    """``GET /v1/machines/{machine}/target``."""

    machine: str
    own: Target
    """What was chosen for this machine alone."""
    policy: str
    by_policy: PolicyTarget
    used: Target
    """What a failover would use: both together, with what is left as at the source."""
    readiness: Readiness


class SiteCapacity(Body):
    """What a site has for machines, and what its machines would take. Bytes; None: no limit is known."""

    processors: Optional[int] = None
    memory: Optional[int] = None
    memory_free: Optional[int] = None
    disk_free: Optional[int] = None
    addresses: Optional[int] = None


class SiteDemand(Body):
    """What the protected machines whose target a site is would take there, all at once."""

    machines: int = 0
    processors: int = 0
    memory: int = 0
    disk: int = 0
    """Their disks in full size: what they take once they are hydrated."""
