"""Set the addresses of network cards in the guest's own network configuration: ifupdown, systemd-networkd (also
netplan's) or NetworkManager. A card's configuration is replaced completely.

netplan's own files remain: networkd takes the first file that matches a card, and ours comes first. NetworkManager
takes the connection with the highest priority. If the wish has no gateway, one in the guest's files is kept if the new
network contains it.
"""

from __future__ import annotations

import ipaddress
import re
import uuid

from farshore.export.preparation.card_names import NETWORK_FILES, understood
from farshore.export.preparation.edits import Edits
from farshore.export.preparation.wish import CardWish

_INTERFACES = "/etc/network/interfaces"
_UNITS = "/etc/systemd/system"
_CONNECTIONS = "/etc/NetworkManager/system-connections"
_BEGINS = re.compile(r"\s*(?:iface|auto|allow-\S+|mapping|source|source-directory|no-auto-down|no-scripts|rename)\s")
_GATEWAYS = re.compile(
    r"(?:gateway[46]?\s*[:=]?|Gateway=|via:|routers|address\d*=[^,\n]+,)\s*[\"']?([0-9a-fA-F:.]*[0-9a-fA-F])"
)
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def give_addresses(edits: Edits, cards: tuple[CardWish, ...]) -> None:
    """Set the addresses of the cards whose target has any."""
    for card in cards:
        if not card.configured or not understood(card):
            continue
        said = f"{card.name} {'by DHCP' if card.dhcp else 'at ' + ', '.join(card.addresses)}"
        interfaces = [ipaddress.ip_interface(text) for text in card.addresses]
        routes = _gateways(edits, card, interfaces)
        if _by_ifupdown(edits, card.name):
            _ifupdown(edits, card, interfaces, routes, said)
        elif _enabled(edits, "NetworkManager.service") and not _by_networkd(edits):
            text = network_manager(card, interfaces, routes)
            edits.write(f"{_CONNECTIONS}/farshore-{card.name}.nmconnection", text, said, 0o600)
        elif _by_networkd(edits):
            text = networkd(card, interfaces, routes)
            edits.write(f"/etc/systemd/network/05-farshore-{card.name}.network", text, said)
        elif edits.has(_INTERFACES):
            _ifupdown(edits, card, interfaces, routes, said)
        else:
            edits.warnings.append(f"What configures the network is not known: {said} was not set.")
    if any(card.configured for card in cards) and edits.names("/etc/cloud", "cloud.cfg"):
        edits.write("/etc/cloud/cloud-init.disabled", "", "cloud-init leaves the network alone")


def networkd(card: CardWish, interfaces: list[Interface], routes: list[str]) -> str:
    """Return a .network file."""
    known = [f"Driver={card.driver}", f"Name={card.name}"] if card.driver else [f"MACAddress={card.mac.lower()}"]
    lines = ["[Match]", *known, "", "[Network]", f"DHCP={'yes' if card.dhcp else 'no'}"]
    lines += [f"Address={one}" for one in interfaces] + [f"Gateway={one}" for one in routes]
    lines += [f"DNS={one}" for one in card.nameservers]
    return "\n".join(lines) + "\n"


def network_manager(card: CardWish, interfaces: list[Interface], routes: list[str]) -> str:
    """Return a connection in a keyfile."""
    name = f"farshore-{card.name}"
    lines = ["[connection]", f"id={name}", f"uuid={uuid.uuid5(uuid.NAMESPACE_OID, f'{name}/{card.mac}')}"]
    lines += ["type=ethernet", "autoconnect=true", "autoconnect-priority=999", ""]
    lines += (
        ["[match]", f"driver={card.driver};", f"interface-name={card.name};"]
        if card.driver
        else ["[ethernet]", f"mac-address={card.mac.upper()}"]
    )
    for version in (4, 6):
        own = [one for one in interfaces if one.version == version]
        gateway = next((f",{one}" for one in routes if ipaddress.ip_address(one).version == version), "")
        names = "".join(f"{one};" for one in card.nameservers if ipaddress.ip_address(one).version == version)
        lines += [
            "",
            f"[ipv{version}]",
            f"method={'manual' if own else 'auto' if card.dhcp or version == 6 else 'disabled'}",
        ]
        lines += [f"address{place}={one}{gateway if place == 1 else ''}" for place, one in enumerate(own, 1)]
        lines += [f"dns={names}"] if names else []
    return "\n".join(lines) + "\n"


def stanzas(card: CardWish, interfaces: list[Interface], routes: list[str], kept: list[str]) -> list[str]:
    """Return stanzas of ifupdown; ``kept``: lines of the stanzas that they replace."""
    if card.dhcp:
        return [f"iface {card.name} inet dhcp", *kept]
    lines: list[str] = []
    for one in interfaces:
        lines += [f"iface {card.name} {'inet' if one.version == 4 else 'inet6'} static", f"    address {one}"]
        lines += [f"    gateway {route}" for route in routes if ipaddress.ip_address(route).version == one.version]
        lines += kept if one is interfaces[0] else []
    return lines


def _ifupdown(edits: Edits, card: CardWish, interfaces: list[Interface], routes: list[str], said: str) -> None:
    """Replace the card's first stanza; comment out its others."""
    paths = [one for one in _interface_files(edits) if _stanzas_of(edits.read(one), card.name)]
    names = [f"    dns-nameservers {' '.join(card.nameservers)}"] if card.nameservers else []
    for place, path in enumerate(paths):
        text, old = edits.read(path).splitlines(), _stanzas_of(edits.read(path), card.name)
        kept = names or [text[line] for line in sorted(old) if text[line].strip().startswith("dns-")]
        made: list[str] = []
        for line, words in enumerate(text):
            if line == min(old) and place == 0:
                made += stanzas(card, interfaces, routes, kept)
            made.append(f"#farshore# {words}" if line in old else words)
        edits.write(path, "\n".join(made) + "\n", said)
    if not paths:
        added = "\n".join([f"auto {card.name}", *stanzas(card, interfaces, routes, names)])
        edits.write(_INTERFACES, f"{edits.read(_INTERFACES).rstrip()}\n\n{added}\n", said)


def _stanzas_of(text: str, name: str) -> set[int]:
    """Return the numbers of the lines of the card's ``iface`` stanzas, without ``auto`` and similar lines."""
    found, within = set(), False
    for number, line in enumerate(text.splitlines()):
        if _BEGINS.match(line):
            words = line.split()
            within = words[0] == "iface" and words[1] == name
        if within and line.strip():
            found.add(number)
    return found


def _interface_files(edits: Edits) -> list[str]:
    return [*([_INTERFACES] if edits.has(_INTERFACES) else []), *edits.names("/etc/network/interfaces.d", "*")]


def _by_ifupdown(edits: Edits, name: str) -> bool:
    return any(_stanzas_of(edits.read(path), name) for path in _interface_files(edits))


def _by_networkd(edits: Edits) -> bool:
    plans = edits.names("/etc/netplan", "*.yaml")
    if plans:
        return not any(re.search(r"^\s*renderer:\s*NetworkManager", edits.read(one), re.MULTILINE) for one in plans)
    return _enabled(edits, "systemd-networkd.service")


def _enabled(edits: Edits, unit: str) -> bool:
    return any(edits.names(f"{_UNITS}/{wants}.wants", unit) for wants in ("multi-user.target", "network-online.target"))


def _gateways(edits: Edits, card: CardWish, interfaces: list[Interface]) -> list[str]:
    """Return the wish's gateways; otherwise, for each network, the first one in any file that is in this network."""
    if card.gateways or card.dhcp:
        return list(card.gateways)
    named: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    for folder, pattern in NETWORK_FILES:
        for path in edits.names(folder, pattern):
            for text in _GATEWAYS.findall(edits.read(path)):
                try:
                    named.append(ipaddress.ip_address(text))
                except ValueError:
                    continue
    found = []
    for one in interfaces:
        route = next((way for way in named if way in one.network and way != one.ip), None)
        if route is not None:
            found.append(str(route))
        else:
            edits.warnings.append(
                f"{card.name}: no gateway is known in {one.network}; give the card one: gateway=ADDRESS."
            )
    return found
