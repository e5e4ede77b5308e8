"""The temporary process server beside a recovered machine: a card whose address stays, then a machine on it.

Names follow from the failover, and everything bears a tag of its own (``farshore-process-server-of``), by which it is
found and removed; nothing is remembered. The card comes first, for the server's certificate is made for its address.
Which order a machine was made of is in its tag: its first boot cannot be changed, so another order is another machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from farshore.model.errors import NotFound, Refused
from farshore.sites.azure import server_documents as documents
from farshore.sites.azure.answers import persistently, plain
from farshore.sites.azure.clients import Clients
from farshore.sites.azure.long_operations import begun_for, carried_out
from farshore.sites.azure.names import MARK, SERVER, server_name
from farshore.sites.azure.parts import Parts, found_or_none
from farshore.sites.azure.settings import AzureSettings
from farshore.sites.azure.sizes import Size, smallest
from farshore.sites.port import FailoverId, RecoveryOrder, ServerOrder, ServerSoftware

_CORES, _MEMORY = 2, 4 << 30
_CREATE = "create a process server "
Settled = Callable[[str], Any]
"""The machine of this name, once nothing is under way with it; None: there is none."""


def unnamed_package() -> Refused:
    """Return the error for a site whose settings name no package for its servers. There is no default: whoever owns a
    name on the index that a server's network reaches would be let in beside the vault's identity."""
    return Refused(
        "The site does not name the package that its temporary process servers install.",
        remedy="Add the site with --setting process_server_package='farshore[server,azure] @ "
        "https://HOST/FILE.whl#sha256=DIGEST', or with --setting process_server=own",
    )


class TemporaryServers:
    """Those of one site. Methods raise AzureError, and what they say. ``settled``: see there."""

    def __init__(self, clients: Clients, settings: AzureSettings, parts: Parts, settled: Settled) -> None:
        self._network, self._compute, self._settings = clients.network, clients.compute, settings
        self._machines, self._parts, self._settled = clients.compute.virtual_machines, parts, settled
        self._group, self._pause = settings.resource_group, settings.poll_seconds

    @property
    def software(self) -> ServerSoftware | None:
        """See Hosting."""
        if self._settings.process_server == "own":
            return None
        account = self._settings.storage_account
        environment = {"AZURE_STORAGE_ACCOUNT_NAME": account} if account else {}
        return ServerSoftware(self._settings.process_server_package, environment)  # room() refuses an empty one

    def room(self, order: RecoveryOrder) -> str:
        """See Hosting."""
        if not self._settings.process_server_package:
            raise unnamed_package()
        if order.isolated or not order.networks:
            raise Refused(
                f"{order.name} is on a network from which nothing leads out.",
                remedy="Give its target a subnet, and fail over again: "
                "farshore machine target set MACHINE --network network:SUBNET",
            )
        failover, network = order.failover, self._network
        found = found_or_none(lambda: network.network_interfaces.get(self._group, server_name(failover, "nic")))
        if found is None or plain(found.properties.provisioning_state) != "Succeeded":
            subnet = self._parts.subnet(order.networks[min(order.networks)].name).id
            body = documents.security_group(self._settings, failover)
            group = self._make(network.network_security_groups, server_name(failover, "nsg"), body)
            public = ""
            if self._settings.process_server_public:
                body = documents.public_address(self._settings, failover)
                public = self._make(network.public_ip_addresses, server_name(failover, "ip"), body).id
            body = documents.card(self._settings, failover, subnet, group.id, public)
            found = self._make(network.network_interfaces, server_name(failover, "nic"), body)
        return str(found.properties.ip_configurations[0].properties.private_ip_address)

    def revive(self, failover: FailoverId, note: Path) -> str:
        """See Hosting. ``note``: what takes a long operation up again."""
        found = self._settled(server_name(failover))
        if found is None:  # what Azure has taken may not be shown yet
            begun = begun_for(note)
            return begun.removeprefix(_CREATE) if begun.startswith(_CREATE) else ""
        if plain(found.properties.provisioning_state) == "Failed":
            return ""
        if not _runs(found):
            begin = functools.partial(self._machines.begin_start, self._group, server_name(failover))
            persistently(lambda: carried_out(note, "start a process server", begin), self._pause)
        return str((found.tags or {}).get(MARK, ""))

    def launch(self, order: ServerOrder, sizes: Sequence[Size], note: Path) -> None:
        """See Hosting."""
        name = server_name(order.failover)
        card = found_or_none(
            lambda: self._network.network_interfaces.get(self._group, server_name(order.failover, "nic"))
        )
        if card is None:
            raise NotFound(f"The card of {name} is gone.", remedy="Repeat: farshore failover reprotect")
        found = self._settled(name)
        made = found is not None and plain(found.properties.provisioning_state) != "Failed"
        if made and (found.tags or {}).get(MARK) == order.mark:
            return
        if found is not None:
            self._finish(lambda: self._machines.begin_delete(self._group, name))
        premium = self._settings.sku.startswith("Premium")
        size = smallest(sizes, self._settings.process_server_size, cores=_CORES, memory=_MEMORY, premium=premium)
        body = documents.machine(self._settings, order, size, card.id)
        begin = functools.partial(self._machines.begin_create_or_update, self._group, name, body)
        persistently(lambda: carried_out(note, f"{_CREATE}{order.mark}", begin), self._pause)

    def dismiss(self, failover: FailoverId) -> None:
        """See Hosting. In an order in which nothing that goes is still used."""
        for one in list(self._machines.list(self._group)):
            if (one.tags or {}).get(SERVER) == failover and self._settled(one.name) is not None:
                self._delete(self._machines, one.name)
        self._delete(self._compute.disks, server_name(failover, "os"), if_there=True)
        for kind in self._kinds():
            for one in list(kind.list(self._group)):
                if (one.tags or {}).get(SERVER) == failover:
                    self._delete(kind, one.name)

    def present(self) -> set[str]:
        """The failovers beside whose machines something is there."""
        found = set()
        for kind in (self._machines, *self._kinds()):
            found |= {str(one.tags[SERVER]) for one in kind.list(self._group) if SERVER in (one.tags or {})}
        return found

    def _kinds(self) -> tuple[Any, ...]:
        network = self._network
        return (network.network_interfaces, network.public_ip_addresses, network.network_security_groups)

    def _make(self, kind: Any, name: str, body: documents.Body) -> Any:
        return self._finish(lambda: kind.begin_create_or_update(self._group, name, body))

    def _delete(self, kind: Any, name: str, *, if_there: bool = False) -> None:
        if if_there and found_or_none(lambda: kind.get(self._group, name)) is None:
            return
        self._finish(lambda: kind.begin_delete(self._group, name))

    def _finish(self, begin: Callable[[], Any]) -> Any:
        return persistently(lambda: begin().result(), self._pause)


def _runs(machine: Any) -> bool:
    view = machine.properties.instance_view
    codes = {str(one.code) for one in (view.statuses if view is not None else None) or ()}
    return not codes & {"PowerState/stopped", "PowerState/deallocated", "PowerState/deallocating"}
