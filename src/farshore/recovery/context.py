"""What the steps of a recovery work with. Created once by the configuration server's main."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from farshore.catalog.database import Catalog
from farshore.delivery.lost import LostDelivery
from farshore.delivery.port import Delivery
from farshore.export.appliance import Disk
from farshore.export.preparation.prepare import Watch, prepare
from farshore.export.preparation.wish import Report, Wish
from farshore.model.errors import Unsupported
from farshore.model.identifiers import DiskNumber, MachineId
from farshore.model.ports import Clock
from farshore.recovery.ports import free_port
from farshore.recovery.source_servers import SourceServers, no_servers
from farshore.sites.lost import LostSite
from farshore.sites.port import FailoverId, Ingesting, RecoverySite, Way
from farshore.vault.machine import MachineVault
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault


@dataclass(frozen=True)
class EnrolmentDoor:
    """Where a process server that recovery makes enrols: the configuration server's URL, its authority's fingerprint,
    and its names."""

    url: str = ""
    fingerprint: str = ""
    names: Sequence[str] = ()


Endpoints = Mapping[tuple[str, int], tuple[str, int]]
Prepare = Callable[[Sequence[tuple[DiskNumber, Disk]], Wish, Watch], Report]
"""Prepares the guest on these disks. Raises Refused with the reason if that is impossible."""


def no_upload(_: Ingesting) -> Delivery:
    """Refuse an upload."""
    raise Unsupported("Azure's libraries are not installed.", remedy="pip install 'farshore[azure]'")


@dataclass(frozen=True)
class Patience:
    """How long steps wait, in seconds."""

    drain: float = 60.0
    """For the process server to store what it received."""
    silent_server: float = 10.0
    """A process server that has been silent for this long is not waited for."""
    silent_agent: float = 30.0
    """A source whose agent has been silent for this long is no longer asked to shut down."""
    answer: float = 600.0
    """For the recovered machine to answer on its first forwarded port."""
    stream: float = 300.0
    """For the agent of a reprotected machine to request its stream."""
    hold: int = 60
    """The longest time for which a machine that goes home is held, from the request to its agent; 0: it is shut
    down."""
    server: float = 1800.0
    """For a temporary process server to come up, install itself and enrol."""
    settle: float = 2.0
    """How long a machine without forwarded ports must run before it counts as started."""
    hung: float = 10.0
    """A console that has been silent for this long after a message of failure will not continue."""
    poll: float = 0.2


@dataclass(frozen=True)
class RecoveryContext:
    """``folder`` holds a folder for each failover; ``site`` opens a site by its id, or raises NotFound; for one that
    was declared lost it answers a LostSite."""

    catalog: Catalog
    clock: Clock
    folder: Path
    vault_url: str
    vault_key: Callable[[], str] = field(repr=False)
    """Returns it in hex; raises Unreachable while the vault is not open yet."""
    site: Callable[[str], RecoverySite]
    deliveries: Mapping[Way, Delivery]
    sleep: Callable[[float], None]
    upload: Callable[[Ingesting], Delivery] = no_upload
    """The delivery to a site by upload. Raises Unsupported if its library is missing."""
    prepare: Prepare = prepare
    """farshore.export.preparation.prepare.prepare, or a double of it."""
    patience: Patience = Patience()
    free_port: Callable[[], int] = free_port
    endpoints: Callable[[str], Endpoints] = lambda _process_server: {}
    """The servers that an agent needs if its stream goes to this process server (an id): names and ports as the agent
    knows them, and the addresses at which this host reaches them."""
    enrolment: Callable[[], EnrolmentDoor] = EnrolmentDoor
    source_servers: SourceServers = no_servers
    """Opens the VMware servers of sources."""

    @property
    def scripts(self) -> Path:
        """The folder of the scripts that may check machines."""
        return self.folder.absolute().parent / "checks"

    def machine_vault(self, machine: str) -> MachineVault:
        """Return the machine in the vault as it is now. Raises NotFound, and the store's errors."""
        return self.open_vault().machine(MachineId(machine))

    def open_vault(self) -> Vault:
        """Open the vault as a failover does: by one request. Raises NotFound, the store's errors."""
        return Vault.open_with_vault_key(open_store(self.vault_url), bytes.fromhex(self.vault_key()))

    def delivery(self, site: RecoverySite) -> Delivery:
        """Return the way in which a site takes disks."""
        if isinstance(site, Ingesting):
            return self.upload(site)
        if isinstance(site, LostSite) and site.delivery.way is Way.UPLOADED:
            return LostDelivery(site)  # of the other ways all is on this host
        return self.deliveries[site.delivery.way]

    def files(self, failover: str) -> FailoverFiles:
        """Return the paths of a failover's files."""
        return FailoverFiles(self.folder.absolute() / failover)


@dataclass(frozen=True)
class FailoverFiles:
    """The files of one failover: its delivered disks, and what belongs to them."""

    folder: Path

    @property
    def sizes(self) -> Path:
        """Which disks were delivered, and their sizes in bytes: JSON, ``{"position": …, "disks": {"0": …}}``."""
        return self.folder / "delivered.json"

    @property
    def preparing(self) -> Path:
        """Exists while the guest is being prepared: its disks may be changed in part."""
        return self.folder / "preparing"

    @property
    def boot(self) -> Path:
        """Holds the host's boot id at the last start of the machine."""
        return self.folder / "boot"


def failover_id(text: str) -> FailoverId:
    """Return the id in the sites' type."""
    return FailoverId(text)
