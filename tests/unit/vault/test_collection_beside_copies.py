"""A collection that takes longer than clocks may differ, beside a copy that began while it ran."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.unit.vault.test_erasing import begun, check_after_collections, finish, reopened, third_of
from tests.unit.vault.test_keys import two_machines

from farshore.formats import vault_names
from farshore.model.policy import ReplicationPolicy
from farshore.vault import BaseCopy
from farshore.vault.stores.port import Listed, Store
from farshore.vault.upkeep import collection
from farshore.vault.upkeep.collection import collect

MINUTE = 60 * 10**9


class Walked:
    """A store whose listing of chunks begins with what ``before`` does."""

    def __init__(self, store: Store, copies: list[BaseCopy], begin: object) -> None:
        self._store, self._copies, self._begin = store, copies, begin

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        if prefix == vault_names.CHUNKS and not self._copies:
            self._copies.append(self._begin())  # type: ignore[operator]
        return self._store.list(prefix, after)


def test_what_a_slow_walk_condemns_counts_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two_machines()
    third = third_of(first)
    first.vault.erase_machine(first.id)
    second.vault.erase_machine(second.id)  # nothing names the chunks any more
    copies: list[BaseCopy] = []
    slow = reopened(first.vault, Walked(first.vault.store, copies, lambda: begun(third)))  # type: ignore[arg-type]
    began = time.time_ns() - 20 * MINUTE
    with monkeypatch.context() as patched:
        moments = iter([began])
        patched.setattr(collection.time, "time_ns", lambda: next(moments, began + 20 * MINUTE + 10**9))
        found = collect(slow, lambda _: ReplicationPolicy(), grace=-60 * MINUTE)
    assert copies
    assert found.condemned
    # A day later, the copy still under way.
    collect(reopened(first.vault), lambda _: ReplicationPolicy(), grace=-MINUTE)
    finish(third, copies[0])
    check_after_collections(third)
