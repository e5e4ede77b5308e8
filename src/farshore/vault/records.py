"""What an installation keeps of itself in the vault, so that another can take its place: one record for each kind.

``installation/KIND/GENERATION-VERSION`` is created only; of a kind the name that sorts last counts. So of two writers
at once one wins, and what a displaced installation still writes sorts before all that its successor has written.
Everything is sealed under the installation key, which only the vault key gives. A kind that is not known is left alone.

A kind that grows with the fleet is kept in parts, each an object with versions of its own: a change costs one part.
Its record then says only into how many parts its rows are divided. Parts are there before the record that speaks of
them, so a kind is whole at any moment; until then an older record counts (``docs/formats/installation.md``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from farshore.formats import vault_names
from farshore.formats.vault_names import RecordName
from farshore.model.errors import Damaged, NotFound, Unreachable, Unsupported
from farshore.vault.objects.opening import read_document, seal_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.stores.port import Store

Row = dict[str, Any]
IN_PARTS = 2
"""The format of records in parts. Releases that know format 1 alone find no rows in such a record, and refuse it."""
_TRIES = 20


@dataclass(frozen=True)
class Record:
    """``rows`` are JSON objects; ``written`` (ns) is when they changed last, by the writer's clock. ``parts``: the rows
    are in so many parts, 0: in this record."""

    name: RecordName
    written: int
    rows: Sequence[Row]
    parts: int = 0


def record_names(store: Store) -> dict[str, list[RecordName]]:
    """Return the records of each kind and part, by folder, with the one that counts last. Raises the store's errors."""
    found: dict[str, list[RecordName]] = {}
    for item in store.list(vault_names.INSTALLATION):
        name = RecordName.parse(item.name)
        if name is not None:
            found.setdefault(name.folder, []).append(name)
    return found


def newest_record(store: Store, like: RecordName) -> RecordName | None:
    """Return the newest record of the same kind and part, or None if there is none. Raises the store's errors."""
    names = [name for item in store.list(like.folder) if (name := RecordName.parse(item.name)) is not None]
    return names[-1] if names else None


def read_record(store: Store, key: SealingKey, name: RecordName) -> Record:
    """Read one record, of a kind in parts without their rows. Raises NotFound, Damaged, WrongKey, Unsupported, the
    store's errors."""
    fields = read_document(store, key, str(name))
    try:
        version, parts, written = int(fields["format"]), int(fields.get("parts", 0)), int(fields["written"])
        rows = [] if parts and not name.parts else [dict(row) for row in fields["rows"]]
    except (KeyError, TypeError, ValueError, OverflowError) as cause:
        raise Damaged(f"{name} does not hold records.", remedy="Restore the object from a copy.") from cause
    if version > IN_PARTS:
        raise Unsupported(f"{name} has format {version}.", remedy="Use the release that wrote it, or a newer one.")
    return Record(name, written, rows, 0 if name.parts else parts)


def read_records(store: Store, key: SealingKey) -> dict[str, Record]:
    """Return the record that counts of each kind, whether the kind is known or not, with the rows of its parts. Raises
    as read_record."""
    read: dict[RecordName, Record] = {}  # of a busy installation few have changed since the try before
    for _ in range(_TRIES):
        newest = [names[-1] for names in record_names(store).values()]
        try:
            for name in newest:
                read[name] = read.get(name) or read_record(store, key, name)
        except NotFound:  # a newer one has come
            continue
        count = [read[name] for name in newest]
        return {one.name.kind: whole(one, count) for one in count if not one.name.parts}
    raise Unreachable("The installation's records are being changed by others.", remedy="Try again.")


def whole(record: Record, every: Iterable[Record]) -> Record:
    """Return a record with the rows of its parts, which are among ``every``. Parts of an older generation than the
    record's are a displaced writer's, who came late."""
    kind, parts, generation = record.name.kind, record.parts, record.name.generation
    mine = [
        one
        for one in every
        if parts and (one.name.kind, one.name.parts) == (kind, parts) and one.name.generation >= generation
    ]
    rows = [*record.rows, *(row for one in sorted(mine, key=lambda one: one.name.part) for row in one.rows)]
    return Record(record.name, max([record.written, *(one.written for one in mine)]), rows, parts)


def write_record(store: Store, key: SealingKey, name: RecordName, rows: Sequence[Row], now: int) -> bool:
    """Create a record, or a part of one, and remove those that it replaces; False if a newer one is there or this very
    one is another's: then look again. ``rows`` must have been read after all that is older was written."""
    fields: Row = {"rows": list(rows)}
    if name.parts:
        fields |= {"parts": name.parts, "part": name.part}
    return _write(store, key, name, fields, IN_PARTS if name.parts else 1, now)


def write_record_of_parts(store: Store, key: SealingKey, name: RecordName, parts: int, now: int) -> bool:
    """Create the record of a kind all of whose rows are in its parts, and remove what it replaces. As write_record."""
    return _write(store, key, name, {"parts": parts}, IN_PARTS, now)


def _write(store: Store, key: SealingKey, name: RecordName, content: Row, version: int, now: int) -> bool:
    text = str(name)
    fields = {
        "format": version,
        "kind": name.kind,
        "generation": name.generation,
        "version": name.version,
        "written": now,
        **content,
    }
    if not store.put_if_absent(text, seal_document(key, text, fields).buffers):
        return False
    there = [item.name for item in store.list(name.folder)]
    if there[-1:] > [text]:
        # It may have been another's, and been removed when its successor came. Then this one comes too late.
        store.delete(text)
        return False
    for older in there:
        if older < text:
            store.delete(older)
    return True
