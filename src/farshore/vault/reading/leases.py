"""Leases: who is reading a position or copying a base, so that the collector leaves what they need.

A lease is a small object that its holder renews; one that was not renewed for EXPIRY is dead, as its holder is. A
reader takes its lease first and looks at the vault afterwards; the collector deletes only what it had condemned in an
earlier run, long before. So either the collector sees the lease, or the reader sees the condemnation.
"""

from __future__ import annotations

import enum
import threading
import time
from dataclasses import dataclass
from typing import Any

from farshore.formats import vault_names
from farshore.model.errors import Damaged, FarshoreError, Forbidden, NoSpace, NotFound
from farshore.model.identifiers import Epoch, MachineId, Sequence, new_id
from farshore.model.position import Position
from farshore.vault.objects.opening import read_document, seal_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.stores.port import Store

EXPIRY = 3600 * 1_000_000_000
CLOCKS = 600 * 1_000_000_000
"""How far apart the clocks of a collector and of others may be, ns."""
_RENEW_SECONDS = 600.0


class LeaseKind(enum.Enum):
    """What a holder does."""

    READ = "read"
    """It reads the state at a position."""
    COPY = "copy"
    """It makes a base map that may name any chunk that was not condemned when the lease began."""
    MERGE = "merge"
    """It writes data objects of the machine, and last the layer that names them."""


@dataclass(frozen=True)
class LeaseRecord:
    """A lease as the collector sees it; ``began`` is ns since 1970 UTC by the holder's clock."""

    kind: LeaseKind
    machine: MachineId
    position: Position | None
    began: int


class Lease:
    """A held lease; renewed by a thread of its own until released."""

    def __init__(self, store: Store, key: SealingKey, record: LeaseRecord) -> None:
        self._store, self._key, self._record = store, key, record
        self._name = vault_names.lease(record.kind.value, new_id())
        self._released = threading.Event()
        self._put()
        self._thread = threading.Thread(target=self._renew, name="vault-lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lease up. A failure is harmless: the lease expires by itself."""
        if not self._released.is_set():
            self._released.set()
            self._thread.join()
            try:
                self._store.delete(self._name)
            except FarshoreError:
                return

    def _renew(self) -> None:
        while not self._released.wait(_RENEW_SECONDS):
            try:
                self._put()
            except FarshoreError:
                continue  # the next turn comes well before it expires

    def _put(self) -> None:
        position = self._record.position
        fields: dict[str, Any] = {
            "format": 1,
            "kind": self._record.kind.value,
            "machine": self._record.machine,
            "position": None if position is None else [position.epoch, position.sequence],
            "began": self._record.began,
            "renewed": time.time_ns(),
        }
        self._store.put(self._name, seal_document(self._key, self._name, fields).buffers)


def take_lease(
    store: Store, key: SealingKey, kind: LeaseKind, machine: MachineId, position: Position | None = None
) -> Lease | None:
    """Return a new lease, or None if the store may only be read or is full: a failover must not fail for that, and goes
    without."""
    try:
        return Lease(store, key, LeaseRecord(kind, machine, position, time.time_ns()))
    except (Forbidden, NoSpace):
        return None


def live_leases(store: Store, key: SealingKey, now: int, *, tidy: bool = True) -> list[LeaseRecord]:
    """Return leases that have not expired by ``now`` (ns). Dead ones are removed, unless one who only reads asks."""
    found = []
    for item in list(store.list(vault_names.LEASES)):
        try:
            fields = read_document(store, key, item.name)
            position = fields["position"]
            record = LeaseRecord(
                LeaseKind(fields["kind"]),
                MachineId(str(fields["machine"])),
                None if position is None else Position(Epoch(int(position[0])), Sequence(int(position[1]))),
                int(fields["began"]),
            )
            renewed = int(fields["renewed"])
        except NotFound:
            continue
        except (KeyError, TypeError, ValueError, OverflowError) as cause:
            raise Damaged(f"{item.name} is not a lease.", remedy="Delete the object.") from cause
        if now - renewed <= EXPIRY:
            found.append(record)
        elif tidy:
            store.delete(item.name)
    return found
