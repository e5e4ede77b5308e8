"""The appliance's addresses, as a file of systemd-networkd, and its name."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from farshore.cli.console.terminal import Terminal
from farshore.model.errors import Malformed

_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
DHCP = "dhcp"


@dataclass(frozen=True)
class Network:
    """``name`` is the name at which machines reach this server. ``address`` is ``dhcp``, or an interface's address such
    as 192.0.2.10/24; ``gateway`` and ``servers`` (name servers) may be empty."""

    name: str
    address: str = DHCP
    gateway: str = ""
    servers: tuple[str, ...] = ()

    def unit(self) -> str:
        """Return the file for systemd-networkd. It sorts before the image's own file, which uses DHCP."""
        lines = ["[Match]", "Type=ether", "", "[Network]"]
        if self.address == DHCP:
            lines.append("DHCP=yes")
        else:
            lines.append(f"Address={self.address}")
            lines += [f"Gateway={self.gateway}"] if self.gateway else []
        return "\n".join([*lines, *(f"DNS={server}" for server in self.servers)]) + "\n"

    def hosts(self) -> str:
        """Return the file /etc/hosts, so that the machine can resolve its own name without a name server."""
        return f"127.0.0.1 localhost\n127.0.1.1 {self.name} {self.name.partition('.')[0]}\n::1 localhost\n"


def ask_network(terminal: Terminal) -> Network:
    """Ask for the name, and for the addresses."""
    terminal.say("Network")
    name = terminal.ask("  Name at which machines reach this server (dr.example.com)", parse_name)
    address = terminal.ask("  Address (dhcp, or as 192.0.2.10/24)", parse_interface, DHCP)
    if address == DHCP:
        return Network(name)
    gateway = terminal.ask("  Gateway (empty: none)", lambda text: parse_gateway(text, address))
    return Network(name, address, gateway, terminal.ask("  Name servers (empty: none)", parse_servers))


def parse_name(text: str) -> str:
    """Parse a host name. Raises Malformed."""
    if not _NAME.fullmatch(text):
        raise Malformed("This is not a host name.", remedy="Give it as dr.example.com.")
    return text.lower()


def parse_interface(text: str) -> str:
    """Parse ``dhcp``, or an address with the length of its network's prefix. Raises Malformed."""
    if text.lower() == DHCP:
        return DHCP
    try:
        found = ipaddress.ip_interface(text)
    except ValueError as error:
        raise Malformed("This is not an address.", remedy="Give it as 192.0.2.10/24, or dhcp.") from error
    whole = found.network.num_addresses > 2 and found.ip == found.network.network_address
    if "/" not in text or whole:
        raise Malformed("This is not the address of a machine in a network.", remedy="Give it as 192.0.2.10/24.")
    return str(found)


def parse_gateway(text: str, address: str) -> str:
    """Parse a gateway in the network of ``address``, or an empty text. Raises Malformed."""
    if not text:
        return ""
    try:
        found = ipaddress.ip_address(text)
    except ValueError as error:
        raise Malformed("This is not an address.", remedy="Give it as 192.0.2.1.") from error
    network = ipaddress.ip_interface(address).network
    if found not in network:
        raise Malformed(f"The gateway is not in {network}.", remedy="Give one that is, or none.")
    return str(found)


def parse_servers(text: str) -> tuple[str, ...]:
    """Parse addresses that are separated by commas or spaces. Raises Malformed."""
    try:
        return tuple(str(ipaddress.ip_address(word)) for word in text.replace(",", " ").split())
    except ValueError as error:
        raise Malformed("This is not an address.", remedy="Give them as 192.0.2.53 192.0.2.54.") from error
