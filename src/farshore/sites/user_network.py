"""Build QEMU's arguments for the user-mode network of an isolated card. Pure.

Without ``restrict=on`` a guest reaches services on the host's loopback and in the host's own network. With it, the
guest only answers connections that come in by a forwarded port.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from farshore.model.machine import NicDescription

_MAC = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")


def isolated_card(number: int, nic: NicDescription, forward: Mapping[int, int], more: str = "") -> list[str]:
    """Return the arguments for card ``number``; the first card has the forwarded ports. ``more``: options of the
    device."""
    backend = f"user,id=net{number},ipv6=off,restrict=on"
    address, settings = _network(nic)
    backend += settings
    if number == 0:
        for port, guest in sorted(forward.items()):
            backend += f",hostfwd=tcp:127.0.0.1:{port}-{address}:{guest}"
    card = f"virtio-net-pci,netdev=net{number},romfile="
    if _MAC.fullmatch(nic.mac):
        card += f",mac={nic.mac}"
    return ["-netdev", backend, "-device", card + more]


def bubble_card(number: int, nic: NicDescription, cable: int) -> list[str]:
    """Return the arguments for card ``number`` whose cable is the connected socket ``cable``."""
    card = f"virtio-net-pci,netdev=net{number},romfile="
    if _MAC.fullmatch(nic.mac):
        card += f",mac={nic.mac}"
    return ["-netdev", f"stream,id=net{number},server=off,addr.type=fd,addr.str={cable}", "-device", card]


def cabled_card(number: int, nic: NicDescription, socket: str, more: str = "") -> list[str]:
    """Return the arguments for a card that QEMU itself connects to its cable, at the Unix socket ``socket``."""
    card = f"virtio-net-pci,netdev=net{number},romfile="
    if _MAC.fullmatch(nic.mac):
        card += f",mac={nic.mac}"
    backend = f"stream,id=net{number},server=off,addr.type=unix,addr.path={literal(socket)}"
    return ["-netdev", backend, "-device", card + more]


def guest_address(nic: NicDescription) -> str:
    """Return the guest's address in its virtual network, or "" if QEMU's own DHCP chooses it."""
    return _network(nic)[0]


def literal(text: object) -> str:
    """Escape a value of an option: names come from the source machine, and a comma would begin another option."""
    return str(text).replace(",", ",,")


def _network(nic: NicDescription) -> tuple[str, str]:
    """Return the guest's address, and settings with which the guest keeps it: the virtual network is the source's
    network."""
    for text in nic.addresses:
        try:
            interface = ipaddress.ip_interface(text)
        except ValueError:
            continue
        if interface.version != 4 or not 8 <= interface.network.prefixlen <= 28 or interface.ip.is_link_local:
            continue
        network = interface.network
        # The virtual router and name server take the last addresses, away from the guest's own.
        last = [network.broadcast_address - step for step in range(1, 4)]
        router, names = [address for address in last if address != interface.ip][:2]
        settings = f",net={network},host={router},dns={names},dhcpstart={interface.ip}"
        return str(interface.ip), settings
    return "", ""
