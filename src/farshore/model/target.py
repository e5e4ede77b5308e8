"""The target of a machine at a recovery site: chosen before the disaster, by machine and by policy.

``MachineTarget`` has every value set: a value that the machine does not choose comes from its policy, and otherwise
from the source.
"""

from __future__ import annotations

import enum
import hashlib
import ipaddress
from dataclasses import dataclass, field
from typing import List, Mapping, Optional, Sequence, Tuple

from farshore.model.errors import Malformed
from farshore.model.machine import Firmware

DEFAULT_SITE = "qemu"
"""The site that every installation has from the start."""


class DiskBus(enum.Enum):
    """The bus of the machine's disks. A guest starts only from a bus for which its initramfs has the driver."""

    VIRTIO = "virtio"
    SATA = "sata"
    VIRTIO_SCSI = "virtio-scsi"
    PVSCSI = "pvscsi"
    """As in VMware's machines."""


class NetworkKind(enum.Enum):
    """What a network card is connected to."""

    ISOLATED = "isolated"
    """Isolated: forwarded ports lead in, nothing leads out."""
    BRIDGE = "bridge"
    """A bridge of the site's host."""
    NETWORK = "network"
    """A network that the site's hypervisor knows by this name."""


class Preparation(enum.Enum):
    """Whether the copy of the guest is prepared for its target before it starts."""

    AUTO = "auto"
    """If the target is known to differ from the source: its disk bus, a card's address, SSH."""
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class TargetNetwork:
    """The network of one card of the recovered machine. ``name``: of the bridge or the network."""

    kind: NetworkKind = NetworkKind.ISOLATED
    name: str = ""
    addresses: Tuple[str, ...] = ()
    """At most one IPv4 and one IPv6 address in CIDR notation; none: those of the source's card."""
    keep_mac: bool = True
    """False: the failover gives the card a new MAC address."""
    dhcp: bool = False
    """The guest uses DHCP, whatever it did at the source."""
    gateways: Tuple[str, ...] = ()
    """At most one of IPv4 and one of IPv6; none: the guest's own, if they are in the new network."""
    nameservers: Tuple[str, ...] = ()
    """None: as the guest has them."""


@dataclass(frozen=True)
class MachineTarget:
    """What to build, and where. 0, "" and None: as at the source."""

    site: str = DEFAULT_SITE
    name: str = ""
    processors: int = 0
    memory: int = 0
    """Size in bytes."""
    firmware: Optional[Firmware] = None
    disk_bus: DiskBus = DiskBus.VIRTIO
    networks: Tuple[TargetNetwork, ...] = ()
    """By card, in the order of the source's; further entries add cards."""
    network: TargetNetwork = field(default_factory=TargetNetwork)
    """For every card that ``networks`` does not list."""
    forward: Mapping[int, int] = field(default_factory=dict)
    """Ports of the site's host, to ports of the guest."""
    tags: Mapping[str, str] = field(default_factory=dict)
    prepare: Preparation = Preparation.AUTO
    ssh: bool = False
    """Make the guest answer by SSH: enable its server, open its port."""

    def card(self, number: int) -> TargetNetwork:
        """Return the network of the source's card ``number`` (from 0)."""
        return self.networks[number] if number < len(self.networks) else self.network


def mac_of(failover: str, card: int) -> str:
    """Return a MAC address for a card that does not keep its own: a local address, different for each failover."""
    digest = hashlib.sha256(f"{failover}/{card}".encode()).digest()
    return ":".join(["52:54:00", *(f"{byte:02x}" for byte in digest[:3])])


def check_network(network: TargetNetwork) -> None:
    """Raise Malformed for a network without a required name, or with an impossible address."""
    named = network.kind is not NetworkKind.ISOLATED
    if named != bool(network.name):
        raise Malformed(
            f"A card that is {network.kind.value} {'needs' if named else 'has no'} name.",
            remedy="Write isolated, bridge:NAME or network:NAME.",
        )
    seen: List[int] = []
    for text in network.addresses:
        address = _interface(text)
        if address.version in seen:
            raise Malformed(
                f"A card has two IPv{address.version} addresses; the second is {text}.",
                remedy="Give at most one IPv4 and one IPv6 address.",
            )
        seen.append(address.version)
    _check_routes(network)


def _check_routes(network: TargetNetwork) -> None:
    """Check gateways and name servers: with DHCP there may be none, and each must be an address."""
    if network.dhcp and (network.addresses or network.gateways):
        raise Malformed("A card cannot have both dhcp and addresses.", remedy="Give either dhcp or addresses.")
    versions: List[int] = []
    for text in (*network.gateways, *network.nameservers):
        try:
            versions.append(ipaddress.ip_address(text).version)
        except ValueError as error:
            raise Malformed(f"{text!r} is not an address.", remedy="Write it without a prefix: 192.0.2.1.") from error
    own = versions[: len(network.gateways)]
    if any(own.count(version) > 1 for version in own):
        raise Malformed(
            "A card has two gateways of the same IP version.", remedy="Give at most one for IPv4 and one for IPv6."
        )
    if (own or network.nameservers) and not (network.addresses or network.dhcp):
        raise Malformed("A card has a gateway or name server but no address.", remedy="Give the card an address too.")


def shared_addresses(wanted: Sequence[Tuple[str, MachineTarget]]) -> List[Tuple[str, str, str]]:
    """Return the static addresses that two of these named machines would have on one network: the address and both
    names."""
    owners: dict[Tuple[str, str, str, str], str] = {}
    found = []
    for name, target in wanted:
        for network in target.networks:
            # On separate networks two machines may have the same address.
            if network.kind is NetworkKind.ISOLATED:
                continue
            for text in network.addresses:
                address = str(_interface(text).ip)
                first = owners.setdefault((target.site, network.kind.value, network.name, address), name)
                if first != name:
                    found.append((address, first, name))
    return found


def _interface(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    try:
        found = ipaddress.ip_interface(text)
    except ValueError as error:
        raise Malformed(
            f"{text!r} is not an address.", remedy="Write it as 192.0.2.10/24 or 2001:db8::10/64."
        ) from error
    network, edge = found.network, 30 if found.version == 4 else 126
    outer = network.prefixlen <= edge and found.ip in (network.network_address, network.broadcast_address)
    if "/" not in text or found.ip.is_multicast or found.ip.is_unspecified or found.ip.is_loopback or outer:
        raise Malformed(
            f"A card cannot have the address {text}.",
            remedy="Give the card's own address with its prefix, such as 192.0.2.10/24.",
        )
    return found
