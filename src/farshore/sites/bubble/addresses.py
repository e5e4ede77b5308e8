"""Choose the addresses of a bubble's cards, and our own address in each of their networks. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from farshore.model.machine import NicDescription

_MAC = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_OF_THE_UNKNOWING = ipaddress.IPv4Network("10.0.2.0/24")
_FIRST = 15


def card_address(nic: NicDescription) -> str:
    """Return the card's IPv4 address in CIDR notation, or "" if the source had none that can be kept."""
    for text in nic.addresses:
        try:
            found = ipaddress.ip_interface(text)
        except ValueError:
            continue
        if found.version == 4 and 8 <= found.network.prefixlen <= 29 and not found.ip.is_link_local:
            return str(found)
    return ""


def mac_bytes(text: str) -> bytes:
    """Return a MAC address as its six bytes, or b"" if the text is not a MAC address."""
    return bytes.fromhex(text.replace(":", "")) if _MAC.fullmatch(text) else b""


def given(text: str, taken: Collection[ipaddress.IPv4Address]) -> ipaddress.IPv4Interface:
    """Return the requested address, or a free one of 10.0.2.0/24 for a card without one. Raises ValueError if none is
    free."""
    if text:
        return ipaddress.IPv4Interface(text)
    for address in list(_OF_THE_UNKNOWING.hosts())[_FIRST - 1 : -3]:
        if address not in taken:
            return ipaddress.IPv4Interface((address, _OF_THE_UNKNOWING.prefixlen))
    raise ValueError("no address is left on the network")


def own_address(network: ipaddress.IPv4Network, taken: Collection[ipaddress.IPv4Address]) -> ipaddress.IPv4Address:
    """Return the last address of the network that no member has. Raises ValueError if none is free."""
    for step in range(1, min(network.num_addresses - 1, 1024)):
        address = network.broadcast_address - step
        if address not in taken:
            return address
    raise ValueError(f"no address of {network} is left")
