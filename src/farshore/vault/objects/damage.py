"""What was found damaged in a vault: one small object for each place, so that finders need not know of each other.

Verification and scrubbing write it, resyncs read it: a damaged chunk is not taken for one that the vault has, neither
by its hash nor as part of the replica, so that a machine that still has it sends it again. What is noted stays until
the object is gone or whole again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from blake3 import blake3

from farshore.formats import vault_names
from farshore.model.errors import Damaged, Forbidden, NotFound
from farshore.vault.objects.opening import read_document, seal_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.stores.port import Store


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. ``disk`` and the byte range are -1 where it concerns more than that; ``from_position``
    is the first state affected, as EPOCH:SEQUENCE, later ones of its epoch may be too; empty for none or unknown."""

    object: str
    problem: str
    machine: str = ""
    disk: int = -1
    start: int = -1
    end: int = -1
    from_position: str = ""

    @property
    def name(self) -> str:
        """The name of the object that notes it: the same for the same place, however often it is found."""
        place = f"{self.object}\n{self.machine}\n{self.disk}\n{self.start}\n{self.end}\n{self.from_position}"
        return vault_names.damage(blake3(place.encode()).digest(16))

    def __str__(self) -> str:
        where = f"disk {self.disk}, bytes {self.start} to {self.end}: " if self.disk >= 0 else ""
        since = f" (states from {self.from_position})" if self.from_position else ""
        return f"{where}{self.object}: {self.problem}{since}"


def listed(store: Store, key: SealingKey) -> list[Finding]:
    """Return everything that is noted. Raises the store's errors."""
    found = []
    for item in list(store.list(vault_names.DAMAGE)):
        try:
            fields = read_document(store, key, item.name)
            found.append(Finding(**{name: fields[name] for name in Finding.__dataclass_fields__}))
        except NotFound:
            continue
        except (Damaged, KeyError):
            store.delete(item.name)  # it says nothing any more; who finds the damage again notes it again
    return found


def note(store: Store, key: SealingKey, findings: Iterable[Finding]) -> list[Finding]:
    """Note what is not noted yet; return that. Raises the store's errors."""
    new = []
    known = {item.name for item in store.list(vault_names.DAMAGE)}
    for one in findings:
        if one.name not in known:
            known.add(one.name)
            document = seal_document(key, one.name, {"format": 1, **asdict(one)})
            if store.put_if_absent(document.name, document.buffers):
                new.append(one)
    return new


def note_if_allowed(store: Store, key: SealingKey, findings: Iterable[Finding]) -> bool:
    """Note damage as `note` does; return False if the vault is read-only."""
    try:
        note(store, key, findings)
    except Forbidden:
        return False
    return True


def forget(store: Store, findings: Iterable[Finding]) -> None:
    """Remove the note of damage that is repaired or gone."""
    for one in findings:
        store.delete(one.name)
