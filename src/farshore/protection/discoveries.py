"""Decide which VMware servers a process server follows, at the site where both are."""

from __future__ import annotations

import hashlib

from farshore.api_types.vmware import DiscoveryOrder
from farshore.catalog import vmware
from farshore.catalog.database import Transaction
from farshore.catalog.tables import VmwareServerRow


def orders_of(tx: Transaction, server: str) -> list[DiscoveryOrder]:
    """Return the orders of one process server, by its id."""
    return [DiscoveryOrder(name=row.name, mark=mark_of(row)) for row in vmware.followed_through(tx, server)]


def mark_of(row: VmwareServerRow) -> str:
    """Return a mark that changes with the address and the login."""
    parts = (row.host, str(row.port), row.user, row.fingerprint, row.secret.hex())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
