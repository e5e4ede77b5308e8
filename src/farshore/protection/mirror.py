"""Keep a copy of the catalog in the vault, so that the loss of this server does not lose it.

In: the changes of commits (farshore.catalog.records), and the files that belong to them. Out: records of the vault, one
for each kind, or for each part of a kind that grows with the number of machines; a record is written when it differs
from the one before. Nothing is written or read while nothing changes; a change costs one part.

A record is written after all older changes: an installation that takes over finds a state that the catalog had at one
moment, part by part. A change reaches its record in one or two seconds, or when the store is reachable again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

from farshore.catalog import records
from farshore.catalog.database import Catalog
from farshore.catalog.records import AUDIT, KINDS
from farshore.formats.vault_names import RecordName
from farshore.model.errors import NotFound, TryLater
from farshore.model.ports import Clock
from farshore.vault.records import (
    Row,
    newest_record,
    read_record,
    record_names,
    write_record,
    write_record_of_parts,
)
from farshore.vault.vault import Vault

FILES = "keys"
"""Kind of the record that holds the files of the installation, its authority and keys among them."""
PACE = 2.0
AUDIT_PACE = 60.0
"""Seconds between two records of a kind. Refused strangers are also in the audit log: their number must not decide how
often a record is written."""
LOOK_AT_ALL_EVERY = 3600.0
"""Changes of other servers of the same catalog are written by those servers. This catches changes that no commit of
ours reported."""
PARTS = 64
"""The number of parts of a kind that grows with the number of machines: 16 machines in each if there are 1,000."""
_SHARE = 20
"""A record that takes long to write is written less often, by this factor."""
_TRIES = 5
_WHOLE = PARTS
"""Sorts after the parts: the record that lists them comes after them."""


class _Place(NamedTuple):
    kind: str
    part: int = _WHOLE


@dataclass
class _Standing:
    """The last written version of one place. ``digest``: of its rows; "" if it must be written whatever they are; None
    if the record must be read to know it."""

    version: int = 0
    digest: Optional[str] = ""
    not_before: float = 0.0


class Mirror:
    """Each call of ``round`` is one round, by one thread. ``files``: the rows of FILES."""

    def __init__(
        self, catalog: Catalog, vault: Vault, generation: int, clock: Clock, files: Callable[[], Sequence[Row]]
    ) -> None:
        self._catalog, self._vault, self._clock, self._files = catalog, vault, clock, files
        self._generation = generation
        self._standings: dict[_Place, _Standing] | None = None
        self._order = {kind: number for number, kind in enumerate((*KINDS, AUDIT, FILES))}
        self._values: dict[_Place, set[str]] = defaultdict(set)
        """By part: the values of the dividing column in its rows."""
        self._due: set[_Place] = set()
        self._heard = set(self._order)
        self._looked = clock.monotonic()
        self._lock = threading.Lock()

    def heard(self, subjects: frozenset[str]) -> None:
        """Note what a commit changed, by subjects of the topic RECORDS. May be called from any thread."""
        with self._lock:
            self._heard |= subjects

    def round(self) -> None:
        """Write what has changed. Raises the store's errors, Displaced; what was not written is retried."""
        now = self._clock.monotonic()
        if now - self._looked >= LOOK_AT_ALL_EVERY:
            self.heard(frozenset(self._order))
            self._looked = now
        if self._standings is None:
            self._standings = {}
            try:
                for names in record_names(self._vault.store).values():
                    self._found(names[-1])
            except BaseException:
                self._standings = None
                raise
        self._take_note()
        for place in sorted(self._due, key=lambda one: (self._order[one.kind], one.part)):
            if now >= self._standing(place).not_before:
                self._due.discard(place)  # before it is read: later changes are read again
                try:
                    self._bring_up_to_date(place)
                except BaseException:
                    self._due.add(place)
                    raise

    def _take_note(self) -> None:
        """Find the places of the noted changes."""
        with self._lock:
            heard, self._heard = self._heard, set()
        try:
            for subject in heard:
                kind, _, value = subject.partition("/")
                if value:
                    self._note(kind, {value})
                elif records.is_divided(kind):
                    with self._catalog.reading() as tx:
                        self._note(kind, records.values(tx, kind))
                    self._due |= {place for place in self._standings or () if place.kind == kind}
                    self._due.add(_Place(kind))
                else:
                    self._due.add(_Place(kind))
        except BaseException:
            self.heard(frozenset(heard))
            raise

    def _note(self, kind: str, values: set[str]) -> None:
        for value in values:
            place = _Place(kind, part_of(value))
            self._values[place].add(value)
            self._due.add(place)

    def _bring_up_to_date(self, place: _Place) -> None:
        began = self._clock.monotonic()
        for _ in range(_TRIES):
            standing = self._read_standing(place)
            if place.part == _WHOLE and records.is_divided(place.kind):
                digest = str(PARTS)
                if any(one.kind == place.kind for one in self._due):
                    self._due.add(place)  # after its parts
                    return
                rows: Sequence[Row] | None = None
            else:
                rows = self._read(place)
                digest = _digest(rows)
            if digest == standing.digest:
                return
            name = self._name(place, standing.version + 1)
            if self._write(name, rows):
                pace = max(AUDIT_PACE if place.kind == AUDIT else PACE, _SHARE * (self._clock.monotonic() - began))
                self._keep(place, _Standing(name.version, digest, self._clock.monotonic() + pace))
                return
            # Another server of this installation was faster: it may have read the catalog before our change.
            self._look_again(place)
        raise TryLater(
            f"The record of {place.kind} in the vault is being changed by others.",
            remedy="This is retried automatically.",
        )

    def _write(self, name: RecordName, rows: Sequence[Row] | None) -> bool:
        store, key, now = self._vault.store, self._vault.installation_key, self._clock.now()
        if rows is None:
            return write_record_of_parts(store, key, name, PARTS, now)
        return write_record(store, key, name, rows, now)

    def _read(self, place: _Place) -> Sequence[Row]:
        if place.kind == FILES:
            return self._files()
        with self._catalog.reading() as tx:
            if place.part == _WHOLE:
                return records.read(tx, place.kind)
            found = records.read_of(tx, place.kind, self._values[place])
        self._values[place] = _values(place.kind, found)
        return found

    def _standing(self, place: _Place) -> _Standing:
        assert self._standings is not None
        # A missing record is equal to a part without rows.
        return self._standings.get(place) or _Standing(digest="" if place.part == _WHOLE else _digest([]))

    def _keep(self, place: _Place, standing: _Standing) -> None:
        assert self._standings is not None
        self._standings[place] = standing

    def _read_standing(self, place: _Place) -> _Standing:
        """Return the state of the place, with a digest."""
        for _ in range(_TRIES):
            standing = self._standing(place)
            if standing.digest is not None:
                return standing
            try:
                name = self._name(place, standing.version)
                record = read_record(self._vault.store, self._vault.installation_key, name)
            except NotFound:
                self._look_again(place)
                continue
            if place.part != _WHOLE:
                self._values[place] |= _values(place.kind, record.rows)  # keep what another server added
            standing.digest = str(record.parts) if record.parts else _digest(record.rows)
            self._keep(place, standing)
        raise TryLater(
            f"The record of {place.kind} in the vault is being changed by others.",
            remedy="This is retried automatically.",
        )

    def _look_again(self, place: _Place) -> None:
        newest = newest_record(self._vault.store, self._name(place, 1))
        if newest is not None:
            self._found(newest)
        elif self._standings is not None:
            self._standings.pop(place, None)

    def _found(self, name: RecordName) -> None:
        """Note a valid record. One of another generation is replaced, even by one without rows."""
        if name.kind in self._order and name.parts in (0, PARTS):
            mine = name.generation == self._generation
            place = _Place(name.kind, name.part if name.parts else _WHOLE)
            self._keep(place, _Standing(name.version, None) if mine else _Standing())

    def _name(self, place: _Place, version: int) -> RecordName:
        parts, part = (0, 0) if place.part == _WHOLE else (PARTS, place.part)
        return RecordName(place.kind, self._generation, version, parts, part)


def part_of(value: str) -> int:
    """Return the part of its kind for rows with this value. All servers of an installation must agree."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()[0] % PARTS


def _values(kind: str, rows: Sequence[Row]) -> set[str]:
    return {str(row[KINDS[kind].by]) for row in rows}


def _digest(rows: Sequence[Row]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
