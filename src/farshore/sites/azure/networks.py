"""The isolated network of a test, and on which subnet each card is. Pure.

Azure keeps the first four addresses of a subnet, and the last: a card that has one of those in its own network gets
another one. What Azure's subnets cannot be (smaller than eight addresses) is widened.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from farshore.model.machine import NicDescription

PLAIN = ipaddress.IPv4Network("10.171.0.0/24")
"""For cards without an address."""
_RESERVED = 4
_SMALLEST = 29
Network = ipaddress.IPv4Network


def address_of(card: NicDescription) -> ipaddress.IPv4Interface | None:
    """The card's first IPv4 address that a network can have."""
    for text in card.addresses:
        found = ipaddress.ip_interface(text)
        if found.version == 4 and not (found.is_link_local or found.is_loopback or found.network.prefixlen > 30):
            return found
    return None


def network_of(card: NicDescription) -> Network:
    """The network that the card's subnet has to be."""
    found = address_of(card)
    if found is None:
        return PLAIN
    return found.network if found.network.prefixlen <= _SMALLEST else found.network.supernet(new_prefix=_SMALLEST)


def outermost(wanted: Iterable[Network]) -> list[Network]:
    """The networks without those that are within others."""
    every = set(wanted)
    return sorted(one for one in every if not any(one != other and one.subnet_of(other) for other in every))


def subnet_name(network: Network) -> str:
    """Of a test network."""
    return f"net-{str(network).replace('.', '-').replace('/', '-')}"


def place_of(card: NicDescription, subnets: Sequence[Network]) -> tuple[Network, str]:
    """The card's subnet of a test network, and its address there; empty: Azure chooses one."""
    wanted = network_of(card)
    subnet = next(one for one in subnets if wanted.subnet_of(one))
    return subnet, static_address(card, subnet)


def static_address(card: NicDescription, subnet: Network) -> str:
    """The card's address in a subnet, where it can have it there; else empty."""
    found = address_of(card)
    if found is None or found.ip not in subnet:
        return ""
    place = int(found.ip) - int(subnet.network_address)
    return str(found.ip) if _RESERVED <= place < subnet.num_addresses - 1 else ""
