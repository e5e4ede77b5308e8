"""How the appliance is reached: its addresses, as a file of systemd-networkd, and its name."""

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
    """``name`` is what machines reach this server by; ``address`` is ``dhcp`` or an interface's, as 192.0.2.10/24, and
    then ``gateway`` and ``servers`` (of names) may be empty too."""

    name: str
    address: str = DHCP
    gateway: str = ""
    servers: tuple[str, ...] = ()

    def unit(self) -> str:
        """The file for systemd-networkd; it goes before the image's own, which asks DHCP."""
        lines = ["[Match]", "Type=ether", "", "[Network]"]
        if self.address == DHCP:
            lines.append("DHCP=yes")
        else:
            lines.append(f"Address={self.address}")
            lines += [f"Gateway={self.gateway}"] if self.gateway else []
        return "\n".join([*lines, *(f"DNS={server}" for server in self.servers)]) + "\n"

    def hosts(self) -> str:
        """The file /etc/hosts: the machine finds its own name without anybody's help."""
        return f"127.0.0.1 localhost\n127.0.1.1 {self.name} {self.name.partition('.')[0]}\n::1 localhost\n"


def ask_network(terminal: Terminal) -> Network:
    """Ask for the name, and how addresses come."""
    terminal.say("Network")
    name = terminal.ask("  Name at which machines reach this server (dr.example.com)", parse_name)
    address = terminal.ask("  Address (dhcp, or as 192.0.2.10/24)", parse_interface, DHCP)
    if address == DHCP:
        return Network(name)
    gateway = terminal.ask("  Gateway (empty: none)", lambda text: parse_gateway(text, address))
    return Network(name, address, gateway, terminal.ask("  Name servers (empty: none)", parse_servers))


def parse_name(text: str) -> str:
    """A host name. Raises Malformed."""
    if not _NAME.fullmatch(text):
        raise Malformed("That is no name of a host.", remedy="Give it as dr.example.com.")
    return text.lower()


def parse_interface(text: str) -> str:
    """``dhcp``, or an address with the length of its network's prefix. Raises Malformed."""
    if text.lower() == DHCP:
        return DHCP
    try:
        found = ipaddress.ip_interface(text)
    except ValueError as error:
        raise Malformed("That is no address.", remedy="Give it as 192.0.2.10/24, or dhcp.") from error
    whole = found.network.num_addresses > 2 and found.ip == found.network.network_address
    if "/" not in text or whole:
        raise Malformed("That is no address of a machine in a network.", remedy="Give it as 192.0.2.10/24.")
    return str(found)


def parse_gateway(text: str, address: str) -> str:
    """A gateway in the network of ``address``, or nothing. Raises Malformed."""
    if not text:
        return ""
    try:
        found = ipaddress.ip_address(text)
    except ValueError as error:
        raise Malformed("That is no address.", remedy="Give it as 192.0.2.1.") from error
    network = ipaddress.ip_interface(address).network
    if found not in network:
        raise Malformed(f"It is not in {network}.", remedy="Give a gateway that is, or none.")
    return str(found)


def parse_servers(text: str) -> tuple[str, ...]:
    """Addresses between commas or spaces. Raises Malformed."""
    try:
        return tuple(str(ipaddress.ip_address(word)) for word in text.replace(",", " ").split())
    except ValueError as error:
        raise Malformed("That is no address.", remedy="Give them as 192.0.2.53 192.0.2.54.") from error
