"""What a journal's objects end with is read once, and nothing else is remembered."""

from __future__ import annotations

import pytest

from farshore.model.errors import NotFound
from farshore.vault.stores import recent
from farshore.vault.stores.counted import counted
from farshore.vault.stores.recent import RecentStore
from farshore.vault.stores.registry import open_store

NAME = "machines/m/segments/00000001/j/one"


def test_the_end_of_a_segment_is_asked_for_once() -> None:
    inner = counted(open_store("memory:///"))
    store = RecentStore(inner)
    data = bytes(range(256)) * 16
    store.put(NAME, [data])
    assert bytes(store.get_range(NAME, 1000, 3096)) == data[1000:]
    inner.taken()
    assert bytes(store.get_range(NAME, 2000, 100)) == data[2000:2100]
    assert [bytes(one) for one in store.get_ranges(NAME, [1000, 4000], [10, 96])] == [data[1000:1010], data[4000:]]
    assert inner.taken() == (0, 0)
    found = store.get_ranges(NAME, [4000, 0, 1500, 990], [96, 10, 5, 20])
    assert [bytes(one) for one in found] == [data[4000:], data[:10], data[1500:1505], data[990:1010]]
    assert inner.taken()[0] == 30


def test_what_may_change_is_not_remembered() -> None:
    store = RecentStore(open_store("memory:///"))
    store.put("leases/one", [b"before"])
    assert bytes(store.get_range("leases/one", 0, 6)) == b"before"
    store.put("leases/one", [b"after."])
    assert bytes(store.get_range("leases/one", 0, 6)) == b"after."
    assert bytes(store.get("leases/one")) == b"after."
    assert [one.name for one in store.list("leases/")] == ["leases/one"]
    assert list(store.folders("")) == ["leases"]
    assert not store.put_if_absent("leases/one", [b"x"])
    store.delete("leases/one")
    with pytest.raises(NotFound):
        store.get_range("leases/one", 0, 6)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "_KEEP", 1000)
    monkeypatch.setattr(recent, "_LONGEST", 400)
    inner = counted(open_store("memory:///"))
    store = RecentStore(inner)
    for number in range(4):
        store.put(f"{NAME}{number}", [bytes(500)])
        store.get_range(f"{NAME}{number}", 100, 400)
    inner.taken()
    store.get_range(f"{NAME}3", 100, 400)
    store.get_range(f"{NAME}2", 100, 400)
    assert inner.taken()[0] == 0
    store.get_range(f"{NAME}0", 100, 400)
    store.get_range(f"{NAME}3", 0, 500)
    store.get_range(f"{NAME}3", 0, 500)
    assert inner.taken()[0] == 1400, "longer ones are not kept"
