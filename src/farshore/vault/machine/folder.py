"""A machine's folder in the vault, and the keys of what is in it: what the parts of a machine stand on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from farshore.formats import vault_names
from farshore.formats.container import Kind
from farshore.model.errors import NotFound
from farshore.model.identifiers import MachineId
from farshore.model.position import Position
from farshore.vault.objects import damage
from farshore.vault.objects.opening import OpenedObject, open_object, read_document, seal_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.reading.leases import Lease, LeaseKind, take_lease
from farshore.vault.stores.port import Listed, Store


@dataclass(frozen=True)
class MachineFolder:
    """Where a machine's objects lie, and the keys that open them."""

    store: Store
    machine: MachineId
    key: SealingKey
    upkeep_key: SealingKey

    def objects(self, below: str = "") -> Iterator[Listed]:
        """Return what the vault holds of the machine below a folder of its own (``points/``), or in all."""
        return self.store.list(vault_names.machine_folder(self.machine) + below)

    def find(self, name: str) -> Listed:
        """Return one object as the store lists it. Raises NotFound."""
        for item in self.store.list(name.rpartition("/")[0] + "/"):
            if item.name == name:
                return item
        raise NotFound(f"{name} is not in the vault.", remedy="Run `farshore vault verify`.")

    def open(self, item: Listed, kind: Kind) -> OpenedObject:
        """Open a sealed object. Raises NotFound, Damaged, WrongKey."""
        return open_object(self.store, self.key, item.name, item.size, kind)

    def read_document(self, name: str) -> dict[str, Any]:
        """Return the fields of a sealed document. Raises NotFound, Damaged, WrongKey."""
        return read_document(self.store, self.key, name)

    def put_document(self, name: str, fields: dict[str, Any]) -> bool:
        """Store a sealed document; return False if there was one with that name already."""
        document = seal_document(self.key, name, fields)
        return self.store.put_if_absent(document.name, document.buffers)

    def lease(self, kind: LeaseKind, position: Position | None = None) -> Lease | None:
        """Take a lease on the machine. Return None if the store may only be read or is full."""
        return take_lease(self.store, self.upkeep_key, kind, self.machine, position)

    def damaged(self) -> set[str]:
        """Return the vault's objects that are known to be damaged."""
        return {one.object for one in damage.listed(self.store, self.upkeep_key)}
