"""What a recovered machine needs around it: its network, security groups, public address and cards.

Each has a name that follows from the failover, and a tag that says from which order it was made: one of another order
is made anew. What exists is asked of Azure, by tags, so nothing is forgotten that a killed call left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from azure.core.exceptions import HttpResponseError

from farshore.model.errors import Refused
from farshore.model.machine import NicDescription
from farshore.model.target import NetworkKind
from farshore.sites.azure import documents
from farshore.sites.azure.answers import code_of, is_absent, persistently, plain
from farshore.sites.azure.clients import Clients
from farshore.sites.azure.documents import CardPlace
from farshore.sites.azure.names import (
    FAILOVER,
    NETWORK,
    ORDER,
    address_name,
    belongs,
    card_name,
    digest_of,
    group_name,
    network_name,
)
from farshore.sites.azure.networks import (
    Network,
    network_of,
    outermost,
    place_of,
    static_address,
    subnet_name,
)
from farshore.sites.azure.settings import AzureSettings
from farshore.sites.port import FailoverId, RecoveryOrder

_IN_USE = "InUseSubnetCannotBeDeleted"


class Parts:
    """Those of one site. Methods raise AzureError, and what they say."""

    def __init__(self, clients: Clients, settings: AzureSettings) -> None:
        self._network, self._settings = clients.network, settings
        self._group, self._pause = settings.resource_group, settings.poll_seconds

    def ensure(self, order: RecoveryOrder) -> list[str]:
        """Have all of them, as the order wants them; the ids of the cards."""
        own = order.isolated or not order.networks
        closed = self._ensure_group(order, closed=True) if own or self._unnamed(order) else ""
        opened = "" if own else self._ensure_group(order, closed=False)
        subnets = self._ensure_network(order) if own else []
        public = self._ensure_public(order) if self._settings.public_address else ""
        cards = []
        for number, card in enumerate(_cards(order)):
            first = public if number == 0 else ""
            if own:
                subnet, address = place_of(card, subnets)
                named = self._subnet_id(network_name(order), subnet_name(subnet))
                place = CardPlace(named, closed, address, first)
            else:
                place = self._named(order, number, closed, opened, first)
            cards.append(self._ensure_card(order, number, place))
        return cards

    def _unnamed(self, order: RecoveryOrder) -> bool:
        return any(number not in order.networks for number in range(len(order.machine.nics)))

    def _named(self, order: RecoveryOrder, number: int, closed: str, opened: str, public: str) -> CardPlace:
        """A card on a subnet that exists; one that is to lead nowhere is beside the first of the others, shut in."""
        leads = number in order.networks
        chosen = order.networks[number if leads else min(order.networks)].name
        subnet = self.subnet(chosen)
        address = static_address(order.machine.nics[number], Network(subnet.properties.address_prefix)) if leads else ""
        return CardPlace(subnet.id, opened if leads else closed, address, public)

    def subnet(self, chosen: str) -> Any:
        """The subnet of that name: SUBNET, or NETWORK/SUBNET. Raises Refused."""
        network, _, name = chosen.rpartition("/")
        network = network or self._settings.virtual_network
        try:
            return self._network.subnets.get(self._group, network, name)
        except HttpResponseError as error:
            if not is_absent(error):
                raise
            raise Refused(
                f"There is no subnet {name} in a virtual network {network} of {self._group}.",
                remedy="See: az network vnet subnet list. Name it as SUBNET, or as NETWORK/SUBNET.",
            ) from error

    def check(self, order: RecoveryOrder) -> None:
        """Raise Refused where a card cannot be where the order wants it."""
        wanted = {number: one for number, one in order.networks.items() if number < len(order.machine.nics)}
        if order.isolated or not wanted:
            return
        if any(one.kind is not NetworkKind.NETWORK for one in wanted.values()):
            raise Refused(
                f"{order.name} is to be on a bridge, which Azure has not.",
                remedy="Choose a subnet: farshore machine target set MACHINE --network network:SUBNET",
            )
        found = {number: self.subnet(one.name).id.lower().partition("/subnets/")[0] for number, one in wanted.items()}
        if len(set(found.values())) > 1:
            raise Refused(
                f"The cards of {order.name} are to be in several virtual networks.",
                remedy="A machine of Azure is in one: choose subnets of it.",
            )

    def _ensure_group(self, order: RecoveryOrder, *, closed: bool) -> str:
        name = group_name(order.failover, closed=closed)
        body = documents.security_group(self._settings, order, closed=closed)
        return self._ensure(self._network.network_security_groups, name, body, order)

    def _ensure_public(self, order: RecoveryOrder) -> str:
        body = documents.public_address(self._settings, order)
        return self._ensure(self._network.public_ip_addresses, address_name(order.failover), body, order)

    def _ensure_card(self, order: RecoveryOrder, number: int, place: CardPlace) -> str:
        body = documents.card(self._settings, order, place)
        return self._ensure(self._network.network_interfaces, card_name(order.failover, number), body, order)

    def _ensure_network(self, order: RecoveryOrder) -> list[Network]:
        """The network of a test; its subnets."""
        wanted = outermost(network_of(card) for card in _cards(order))
        networks, name = self._network.virtual_networks, network_name(order)
        found = found_or_none(lambda: networks.get(self._group, name))
        known = [Network(one.properties.address_prefix) for one in found.properties.subnets or ()] if found else []
        if order.bubble:
            wanted = outermost([*known, *wanted])
        elif found is not None and (found.tags or {}).get(ORDER) == digest_of(order):
            return known
        if sorted(known) != wanted:
            body = documents.test_network(self._settings, order, wanted)
            self._finish(lambda: networks.begin_create_or_update(self._group, name, body))
        return wanted

    def _ensure(self, kind: Any, name: str, body: documents.Body, order: RecoveryOrder) -> str:
        """Have one of ``kind``, unless that of this very order is there; its id."""
        found = found_or_none(lambda: kind.get(self._group, name))
        settled = found is not None and plain(found.properties.provisioning_state) == "Succeeded"
        if not settled or (found.tags or {}).get(ORDER) != digest_of(order):
            found = self._finish(lambda: kind.begin_create_or_update(self._group, name, body))
        return str(found.id)

    def _subnet_id(self, network: str, subnet: str) -> str:
        base = f"/subscriptions/{self._settings.subscription}/resourceGroups/{self._group}"
        return f"{base}/providers/Microsoft.Network/virtualNetworks/{network}/subnets/{subnet}"

    def address(self, failover: FailoverId) -> str:
        """Where the machine's first card is reached; empty where it has none."""
        public = found_or_none(lambda: self._network.public_ip_addresses.get(self._group, address_name(failover)))
        if public is not None and public.properties.ip_address:
            return str(public.properties.ip_address)
        card = found_or_none(lambda: self._network.network_interfaces.get(self._group, card_name(failover, 0)))
        if card is None:
            return ""
        return str(card.properties.ip_configurations[0].properties.private_ip_address or "")

    def present(self) -> set[str]:
        """The failovers of which something is there."""
        found = set()
        for kind in self._kinds():
            for one in kind.list(self._group):
                if FAILOVER in (one.tags or {}):
                    found.add(str(one.tags[FAILOVER]))
        return found

    def remove(self, failover: FailoverId, but: str = "") -> None:
        """Leave nothing of the failover's, and no test network that nobody uses: in an order in which nothing that
        goes is still used. ``but``: the digest of the order whose parts stay."""
        for kind in self._kinds():
            for one in list(kind.list(self._group)):
                if belongs(one.tags, failover) and (one.tags or {}).get(ORDER) != but:
                    self._remove(kind, one.name)
        if but:
            return
        networks = self._network.virtual_networks
        for one in list(networks.list(self._group)):
            if NETWORK in (one.tags or {}):
                self._remove_unused(networks, one.name)

    def _remove(self, kind: Any, name: str) -> None:
        self._finish(lambda: kind.begin_delete(self._group, name))

    def _remove_unused(self, networks: Any, name: str) -> None:
        try:
            networks.begin_delete(self._group, name).result()
        except HttpResponseError as error:
            if code_of(error) not in (_IN_USE, "AnotherOperationInProgress") and not is_absent(error):
                raise

    def _kinds(self) -> tuple[Any, ...]:
        network = self._network
        return (
            network.network_interfaces,
            network.public_ip_addresses,
            network.network_security_groups,
            network.virtual_networks,
        )

    def _finish(self, begin: Callable[[], Any]) -> Any:
        return persistently(lambda: begin().result(), self._pause)


def _cards(order: RecoveryOrder) -> Sequence[NicDescription]:
    """Its cards; one at least, for Azure knows no machine without."""
    return order.machine.nics or (NicDescription("card0", ""),)


def found_or_none(get: Callable[[], Any]) -> Any:
    """What ``get`` answers; None where there is no such thing. Raises AzureError."""
    try:
        return get()
    except HttpResponseError as error:
        if is_absent(error):
            return None
        raise
