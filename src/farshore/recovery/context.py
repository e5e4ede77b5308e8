"""What the steps of a recovery work with. Made once by the configuration server's main."""

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

Endpoints = Mapping[tuple[str, int], tuple[str, int]]
Prepare = Callable[[Sequence[tuple[DiskNumber, Disk]], Wish, Watch], Report]
"""Makes the guest on these disks ready. Raises Refused with the reason if it cannot be."""


def no_upload(_: Ingesting) -> Delivery:
    """Refuse it."""
    raise Unsupported("Azure's libraries are not installed.", remedy="pip install 'farshore[azure]'")


@dataclass(frozen=True)
class Patience:
    """How long steps wait, in seconds."""

    drain: float = 60.0
    """For the process server to store what it received."""
    silent_server: float = 10.0
    """A process server that has said nothing for so long is not waited for."""
    silent_agent: float = 30.0
    """A source whose agent has said nothing for so long is not asked to shut down for longer."""
    answer: float = 600.0
    """For the recovered machine to answer on its first forwarded port."""
    stream: float = 300.0
    """For the agent of a machine that is protected again to ask for its stream."""
    hold: int = 60
    """For which a machine that goes home is held still at most, from when its agent is asked; 0: it is shut down."""
    settle: float = 2.0
    """How long a machine without forwarded ports must have been running to count as started."""
    hung: float = 10.0
    """A console that has said nothing for so long, and last that the guest comes no further, will say nothing more."""
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
    """Answers it in hex; raises Unreachable while the vault is not open yet."""
    site: Callable[[str], RecoverySite]
    deliveries: Mapping[Way, Delivery]
    sleep: Callable[[float], None]
    upload: Callable[[Ingesting], Delivery] = no_upload
    """The delivery to a site that its disks are uploaded to. Raises Unsupported where a library for that is missing."""
    prepare: Prepare = prepare
    """farshore.export.preparation.prepare.prepare, or a double of it."""
    patience: Patience = Patience()
    free_port: Callable[[], int] = free_port
    endpoints: Callable[[str], Endpoints] = lambda _process_server: {}
    """The servers that an agent needs whose stream goes to this process server (an id), as it knows them, and where
    this host reaches them: names and ports."""
    source_servers: SourceServers = no_servers
    """Opens the VMware servers of sources."""

    @property
    def scripts(self) -> Path:
        """The folder of the scripts that may check machines."""
        return self.folder.absolute().parent / "checks"

    def machine_vault(self, machine: str) -> MachineVault:
        """The machine as the vault holds it now. Raises NotFound, and the store's errors."""
        return self.open_vault().machine(MachineId(machine))

    def open_vault(self) -> Vault:
        """The vault, opened as a failover opens it: by one request. Raises NotFound, the store's errors."""
        return Vault.open_with_vault_key(open_store(self.vault_url), bytes.fromhex(self.vault_key()))

    def delivery(self, site: RecoverySite) -> Delivery:
        """The way in which a site takes disks."""
        if isinstance(site, Ingesting):
            return self.upload(site)
        if isinstance(site, LostSite) and site.delivery.way is Way.UPLOADED:
            return LostDelivery(site)  # of the other ways all is on this host
        return self.deliveries[site.delivery.way]

    def files(self, failover: str) -> FailoverFiles:
        """Where a failover keeps its files."""
        return FailoverFiles(self.folder.absolute() / failover)


@dataclass(frozen=True)
class FailoverFiles:
    """The files of one failover: its disks as they were delivered, and what belongs to them."""

    folder: Path

    @property
    def sizes(self) -> Path:
        """Which disks were delivered, and their bytes: JSON, ``{"position": …, "disks": {"0": …}}``."""
        return self.folder / "delivered.json"

    @property
    def preparing(self) -> Path:
        """There while the guest is being prepared: its disks may have been changed in part."""
        return self.folder / "preparing"

    @property
    def boot(self) -> Path:
        """Holds the host's boot id at the last start of the machine."""
        return self.folder / "boot"


def failover_id(text: str) -> FailoverId:
    """The id as the sites know it."""
    return FailoverId(text)
