"""What is asked of a store, counted as providers bill it."""

from __future__ import annotations

from pathlib import Path

from farshore.vault.stores.counted import PAGE, counted
from farshore.vault.stores.folder import FolderStore
from farshore.vault.stores.port import Sweepable
from farshore.vault.stores.registry import open_store
from farshore.vault.stores.remote import COALESCE


def test_every_kind_of_request_is_counted_once(tmp_path: Path) -> None:
    store = counted(FolderStore(tmp_path))
    store.put("a/one", [b"12345"])
    store.put_if_absent("a/two", [b"1"])
    store.put_if_absent("a/two", [b"1"])
    store.get("a/one")
    store.get_range("a/one", 1, 2)
    store.delete("a/two")
    list(store.list("a/"))
    store.folders("")
    assert store.requests == {"put": 3, "get": 2, "list": 2, "delete": 1}
    assert store.taken() == (7, 8)
    assert store.taken() == (0, 0)
    assert store.seconds > 0


def test_a_long_listing_takes_a_request_for_each_page() -> None:
    store = counted(open_store("memory:///"))
    for number in range(2 * PAGE + 1):
        store.put(f"a/{number:05d}", [b""])
    assert len(list(store.list("a/"))) == 2 * PAGE + 1
    assert store.requests["list"] == 3
    list(store.list("a/", after=f"a/{PAGE:05d}"))
    assert store.requests["list"] == 4, "a page that is full to the last name is one"


def test_ranges_that_lie_close_are_one_request() -> None:
    store = counted(open_store("memory:///"))
    store.put("a/one", [bytes(4 * COALESCE)])
    store.get_ranges("a/one", [0, 100, 3 * COALESCE, 50], [10, 10, 10, 10])
    assert store.requests["get"] == 2


def test_what_a_store_can_do_it_can_through_the_wrapper(tmp_path: Path) -> None:
    assert isinstance(counted(FolderStore(tmp_path)), Sweepable)
    assert not isinstance(counted(open_store("memory:///")), Sweepable)
