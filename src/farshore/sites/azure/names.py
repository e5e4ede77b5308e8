"""What the resources of a recovered machine are called, and the tags by which they are found again. Pure.

Names follow from the failover's id, so that a repeated call finds what an earlier one made; which of them exist is
asked of Azure by their tags.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from farshore.sites.orders import write_order
from farshore.sites.port import FailoverId, RecoveryOrder

FAILOVER, ORDER, MACHINE, NETWORK = "farshore-failover", "farshore-order", "farshore-machine", "farshore-network"
"""Tags: whose it is, made from which order, people's name of the machine, which test network."""
SERVER, MARK = "farshore-process-server-of", "farshore-mark"
"""Tags of a temporary process server: beside which failover's machine, and of which order."""
SIZE = "azure-size"
"""A tag of a target that chooses the machine's size."""
_MOST_TAGS = 46
"""Azure's bound of 50, less ours."""
_BAD = "<>%&\\?/"
"""Not allowed in names of tags."""


def machine_name(failover: FailoverId) -> str:
    """Of the virtual machine."""
    return f"fs-{failover}"


def disk_name(failover: FailoverId, number: int) -> str:
    """Of a managed disk."""
    return f"fs-{failover}-disk{number}"


def card_name(failover: FailoverId, number: int) -> str:
    """Of a network interface."""
    return f"fs-{failover}-nic{number}"


def group_name(failover: FailoverId, *, closed: bool) -> str:
    """Of a network security group: the one that leads nowhere, or the other."""
    return f"fs-{failover}-{'closed' if closed else 'open'}"


def address_name(failover: FailoverId) -> str:
    """Of the public address."""
    return f"fs-{failover}-ip"


def server_name(failover: FailoverId, part: str = "") -> str:
    """Of the temporary process server beside a failover's machine, or of a part of it: nic, nsg, ip, os."""
    return f"fs-{failover}-ps{part and f'-{part}'}"


def network_name(order: RecoveryOrder) -> str:
    """Of the isolated network of a test: its own, or the bubble that it shares."""
    return f"fs-net-{order.bubble}" if order.bubble else f"fs-{order.failover}-net"


def digest_of(order: RecoveryOrder) -> str:
    """What tells one order from another."""
    return hashlib.sha256(write_order(order)).hexdigest()[:32]


def tags_of(order: RecoveryOrder) -> dict[str, str]:
    """Of everything that is made for the order: the target's and ours."""
    theirs = {name: value for name, value in order.tags.items() if name != SIZE and not set(name) & set(_BAD)}
    kept = {name[:512]: value[:256] for name, value in sorted(theirs.items())[:_MOST_TAGS]}
    return {**kept, FAILOVER: order.failover, ORDER: digest_of(order), MACHINE: order.name[:256]}


def belongs(tags: Mapping[str, str] | None, failover: FailoverId) -> bool:
    """Whether a resource is the failover's."""
    return (tags or {}).get(FAILOVER) == failover


def server_tags(failover: FailoverId) -> dict[str, str]:
    """Of everything that is made for a temporary process server."""
    return {SERVER: failover, MACHINE: "process server"}
