"""Keeps in the vault what only the catalog holds, so that the loss of this server is not the loss of all that.

In: the kinds of records that commits changed (farshore.catalog.records), and the files that go along. Out: one record
of the vault for each kind, written when it differs from the one before. Nothing is written while nothing changes.

A record is put after all that is older was: whoever takes over finds a state that was the catalog's at one moment, kind
by kind. Between the commit of a change and its record lie a second or two, or as long as the store is away.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from farshore.catalog import records
from farshore.catalog.database import Catalog
from farshore.catalog.records import AUDIT, KINDS
from farshore.formats.vault_names import RecordName
from farshore.model.errors import TryLater
from farshore.model.ports import Clock
from farshore.vault.records import Row, read_record, record_names, write_record
from farshore.vault.vault import Vault

FILES = "keys"
"""Kind of the record that holds the files of the installation, its authority and keys among them."""
PACE = 2.0
AUDIT_PACE = 60.0
"""Seconds between two records of a kind. Strangers who are refused are in the audit log, too: their number must not
decide how often something is put."""
LOOK_AT_ALL_EVERY = 60.0
"""What another server of the same catalog changed, it writes itself. This is for what no commit of ours told of."""
_SHARE = 20
"""A kind that takes long to read is read so much less often."""
_TRIES = 5


@dataclass
class _Standing:
    version: int = 0
    digest: str = ""
    not_before: float = 0.0


class Mirror:
    """One round at each call of ``round``, by one thread. ``files``: the rows of FILES."""

    def __init__(
        self, catalog: Catalog, vault: Vault, generation: int, clock: Clock, files: Callable[[], Sequence[Row]]
    ) -> None:
        self._catalog, self._vault, self._clock, self._files = catalog, vault, clock, files
        self._generation = generation
        self._standings: dict[str, _Standing] | None = None
        self._all = (*KINDS, AUDIT, FILES)
        self._changed = set(self._all)
        self._looked = clock.monotonic()
        self._lock = threading.Lock()

    def heard(self, kinds: frozenset[str]) -> None:
        """A commit changed these kinds; called from any thread."""
        with self._lock:
            self._changed |= kinds

    def round(self) -> None:
        """Write what has changed. Raises the store's errors, Displaced; what was not written is tried again."""
        now = self._clock.monotonic()
        if now - self._looked >= LOOK_AT_ALL_EVERY:
            self.heard(frozenset(self._all))
            self._looked = now
        if self._standings is None:
            self._standings = self._found()
        for kind in self._all:
            standing = self._standings.setdefault(kind, _Standing())
            with self._lock:
                due = kind in self._changed and now >= standing.not_before
                self._changed -= {kind} if due else set()  # before it is read: what changes meanwhile is read again
            if due:
                try:
                    self._bring_up_to_date(kind)
                except BaseException:
                    self.heard(frozenset({kind}))
                    raise

    def _bring_up_to_date(self, kind: str) -> None:
        assert self._standings is not None
        began = self._clock.monotonic()
        for _ in range(_TRIES):
            standing = self._standings[kind]
            rows = self._read(kind)
            digest = _digest(rows)
            if digest == standing.digest:
                return
            name = RecordName(kind, self._generation, standing.version + 1)
            if write_record(self._vault.store, self._vault.installation_key, name, rows, self._clock.now()):
                pace = max(AUDIT_PACE if kind == AUDIT else PACE, _SHARE * (self._clock.monotonic() - began))
                self._standings[kind] = _Standing(name.version, digest, self._clock.monotonic() + pace)
                return
            # Another server of this installation was quicker: it may have read the catalog before our change.
            self._standings = self._found()
            self._standings.setdefault(kind, _Standing())
        raise TryLater(f"The record of {kind} in the vault changes all the time.", remedy="It is tried again.")

    def _read(self, kind: str) -> Sequence[Row]:
        if kind == FILES:
            return self._files()
        with self._catalog.reading() as tx:
            return records.read(tx, kind)

    def _found(self) -> dict[str, _Standing]:
        """What this generation wrote before, of the kinds that are known here."""
        found = {}
        for kind, names in record_names(self._vault.store).items():
            if kind in self._all and names[-1].generation == self._generation:
                record = read_record(self._vault.store, self._vault.installation_key, names[-1])
                found[kind] = _Standing(names[-1].version, _digest(record.rows))
        return found


def _digest(rows: Sequence[Row]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
