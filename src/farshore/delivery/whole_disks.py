"""Go over the disks of a consignment, for the ways that write complete disks: their order, their points, their
progress."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from farshore.delivery.port import Consignment, Watch
from farshore.export.patience import PatientSource
from farshore.export.settings import VaultDisk
from farshore.model.identifiers import DiskNumber, MachineId
from farshore.model.ports import BlockSource
from farshore.model.position import Position
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault

_STORE_PATIENCE = 30.0
"""Seconds for which a read tolerates errors of the store; then the step that delivers is retried."""
_WRITING = 0.85
"""The share of the work that is writing; the rest is reading back."""


@dataclass(frozen=True)
class Progress:
    """Reports on one disk, whose work is the part from ``begin`` on, ``share`` long, of the whole."""

    watch: Watch
    disk: str
    begin: float
    share: float

    def __call__(self, what: str, done: int, total: int) -> None:
        part = done / total if total else 1.0
        within = {"written": _WRITING * part, "read back": _WRITING + (1 - _WRITING) * part, "checked": part}.get(
            what, 0.0
        )
        self.watch(self.begin + self.share * within, f"{self.disk}: {_gib(done)} of {_gib(total)} GiB {what}")


def each_disk(consignment: Consignment, watch: Watch) -> Iterator[tuple[DiskNumber, int, Progress]]:
    """Yield the number and size of each disk, with an object that reports its progress."""
    whole, before = sum(consignment.sizes.values()), 0
    for place, (number, size) in enumerate(sorted(consignment.sizes.items()), 1):
        yield number, size, Progress(watch, f"disk {place} of {len(consignment.sizes)}", before / whole, size / whole)
        before += size


def identity_of(consignment: Consignment, number: DiskNumber) -> str:
    """Return the identity of the disk's point, as the ledger records it."""
    return VaultDisk(machine=consignment.machine, position=consignment.position, disk=number).identity


def open_point(consignment: Consignment, number: DiskNumber) -> BlockSource:
    """Return the disk at the point. Raises what opening the vault raises."""
    vault = Vault.open_with_vault_key(open_store(consignment.vault_url), bytes.fromhex(consignment.vault_key))
    point = vault.machine(MachineId(consignment.machine)).disks.open(Position.parse(consignment.position), number)
    return PatientSource(point, _STORE_PATIENCE)


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.1f}"
