"""What an installation keeps of itself in the vault, so that another can take its place: one record for each kind.

``installation/KIND/GENERATION-VERSION`` is created only; of a kind the name that sorts last counts. So of two writers
at once one wins, and what a displaced installation still writes sorts before all that its successor has written.
Everything is sealed under the installation key, which only the vault key gives. A kind that is not known is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from farshore.formats import vault_names
from farshore.formats.vault_names import RecordName
from farshore.model.errors import Damaged, NotFound, Unreachable
from farshore.vault.objects import read_document, seal_document
from farshore.vault.sealing import SealingKey
from farshore.vault.stores.port import Store

Row = dict[str, Any]
_TRIES = 20


@dataclass(frozen=True)
class Record:
    """``rows`` are JSON objects; ``written`` (ns) is when they changed last, by the writer's clock."""

    name: RecordName
    written: int
    rows: Sequence[Row]


def record_names(store: Store) -> dict[str, list[RecordName]]:
    """Of each kind, the records that are there, the one that counts last. Raises the store's errors."""
    found: dict[str, list[RecordName]] = {}
    for item in store.list(vault_names.INSTALLATION):
        name = RecordName.parse(item.name)
        if name is not None:
            found.setdefault(name.kind, []).append(name)
    return found


def read_record(store: Store, key: SealingKey, name: RecordName) -> Record:
    """Raises NotFound, Damaged, WrongKey, Unsupported, the store's errors."""
    fields = read_document(store, key, str(name))
    try:
        rows, written = [dict(row) for row in fields["rows"]], int(fields["written"])
    except (KeyError, TypeError, ValueError, OverflowError) as cause:
        raise Damaged(f"{name} does not hold records.", remedy="Restore the object from a copy.") from cause
    return Record(name, written, rows)


def read_records(store: Store, key: SealingKey) -> dict[str, Record]:
    """The record that counts of each kind, whether the kind is known or not. Raises as read_record."""
    for _ in range(_TRIES):
        try:
            return {kind: read_record(store, key, names[-1]) for kind, names in record_names(store).items()}
        except NotFound:  # a newer one has come
            continue
    raise Unreachable("The installation's records change all the time.", remedy="Try again.")


def write_record(store: Store, key: SealingKey, name: RecordName, rows: Sequence[Row], now: int) -> bool:
    """Create a record and remove those of its kind that it replaces; False where a newer one is there or this very one
    is another's: then look again. ``rows`` must have been read after all that is older was written."""
    text = str(name)
    fields = {
        "format": 1,
        "kind": name.kind,
        "generation": name.generation,
        "version": name.version,
        "written": now,
        "rows": list(rows),
    }
    if not store.put_if_absent(text, seal_document(key, text, fields).buffers):
        return False
    there = [item.name for item in store.list(f"{vault_names.INSTALLATION}{name.kind}/")]
    if there[-1:] > [text]:
        # It may have been another's, and been removed when its successor came. Then this one comes too late.
        store.delete(text)
        return False
    for older in there:
        if older < text:
            store.delete(older)
    return True
