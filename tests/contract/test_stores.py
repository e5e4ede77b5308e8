"""What every object store must promise (farshore.vault.stores.port): the folder, memory, and the clouds' doubles."""

from __future__ import annotations

import os
import threading
import uuid

import pytest
from tests.unit.vault.synthetic import Machine

from farshore.formats.batch import Role
from farshore.model.errors import Damaged, Forbidden, Malformed, NotFound, Unreachable
from farshore.model.identifiers import Epoch, Sequence
from farshore.model.position import Position
from farshore.vault import OwnerKey, Vault
from farshore.vault.stores.folder import FolderStore
from farshore.vault.stores.registry import open_store
from farshore.vault.upkeep.compaction import Tiers, compact

DOUBLES = ["azurite", "ceph", *(["gcs"] if os.environ.get("FARSHORE_TEST_GCS") else [])]


@pytest.fixture(scope="module", params=["folder", "memory", *DOUBLES])
def place(request, tmp_path_factory, double):
    """A URL under which each test makes a store of its own."""
    if request.param == "folder":
        yield f"file://{tmp_path_factory.mktemp('store')}"
    elif request.param == "memory":
        yield "memory://"
    else:
        url, environment = double(request.param)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            yield url


@pytest.fixture
def store(place):
    return open_store(f"{place}/{uuid.uuid4()}")


def test_an_object_comes_back_whole_and_in_ranges(store):
    store.put("a/b/object", [b"hello ", bytearray(b"wor"), memoryview(b"ld")])
    assert bytes(store.get("a/b/object")) == b"hello world"
    assert bytes(store.get_range("a/b/object", 6, 5)) == b"world"
    assert [bytes(data) for data in store.get_ranges("a/b/object", [0, 4, 10], [2, 3, 1])] == [b"he", b"o w", b"d"]
    assert store.get_ranges("a/b/object", [], []) == []


def test_put_replaces_and_put_if_absent_does_not(store):
    assert store.put_if_absent("one", [b"first"])
    assert not store.put_if_absent("one", [b"second"])
    assert bytes(store.get("one")) == b"first"
    store.put("one", [b"third"])
    assert bytes(store.get("one")) == b"third"


def test_of_many_creators_one_wins(store):
    results: list[tuple[bool, int]] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append((store.put_if_absent("race", [b"%d" % n]), n)))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [number for won, number in results if won]
    assert len(winners) == 1
    assert bytes(store.get("race")) == b"%d" % winners[0]


def test_a_listing_is_sorted_and_can_begin_in_the_middle(store):
    names = ["x/1", "x/10", "x/2/a", "x/2-b", "x/2.c", "x/3", "y/1"]
    for name in names:
        store.put(name, [name.encode()])
    listed = list(store.list("x/"))
    assert [item.name for item in listed] == sorted(names[:-1])
    assert [item.size for item in listed] == [len(item.name) for item in listed]
    assert all(item.modified > 1_600_000_000_000_000_000 for item in listed)
    for after in ["x/10", "x/2/a", "x/2", "x/29"]:
        assert [item.name for item in store.list("x/", after=after)] == [n for n in sorted(names[:-1]) if n > after]
    assert list(store.list("z/")) == []


def test_folders_are_the_elements_that_follow(store):
    for name in ["m/b/key", "m/a/x/y", "m/file"]:
        store.put(name, [b"1"])
    assert list(store.folders("m/")) == ["a", "b"]
    assert list(store.folders("n/")) == []
    store.delete("m/a/x/y")
    assert list(store.folders("m/")) == ["b"]


def test_what_is_not_there_is_told_and_may_be_deleted(store):
    with pytest.raises(NotFound):
        store.get("nothing")
    with pytest.raises(NotFound):
        store.get_range("nothing", 0, 1)
    store.delete("nothing")
    store.put("some/thing", [b"1"])
    store.delete("some/thing")
    with pytest.raises(NotFound):
        store.get("some/thing")


def test_a_range_beyond_the_end_is_damage(store):
    store.put("short", [b"12345"])
    with pytest.raises(Damaged):
        store.get_range("short", 3, 10)


def test_a_large_object_of_many_buffers(store):
    buffers = [bytes([number % 251]) * 4097 for number in range(2000)]
    store.put("large", buffers)
    assert bytes(store.get("large")) == b"".join(buffers)


def test_a_vault_works_on_it(store):
    machine = Machine(Vault.create(store, OwnerKey(bytes(32), "key-file")), 3, {0: 300 << 10})
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=5, batches=1, count=10)
    compact(machine.in_vault, Tiers(segments=2, fan=2))
    machine.check(Position(Epoch(1), Sequence(50)))
    machine.check(Position(Epoch(1), Sequence(20)))
    assert machine.in_vault.stored.timeline().run(Epoch(1), Role.JOURNAL).end == 51
    assert len(machine.in_vault.points.listed()) == 6


def test_a_store_that_is_not_there_is_unreachable_or_refuses(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    with pytest.raises((Unreachable, Forbidden)):
        open_store("s3://bucket").get("name")


def test_temporary_files_of_a_crash_are_not_listed_and_swept(tmp_path):
    store = FolderStore(tmp_path)
    store.put("a/object", [b"1"])
    (tmp_path / "a" / ".part-1-2-3").write_bytes(b"half")
    assert [item.name for item in store.list("a/")] == ["a/object"]
    assert store.sweep(older_than=3600) == 0
    assert store.sweep(older_than=-1) == 1
    assert bytes(store.get("a/object")) == b"1"


def test_a_file_in_a_folders_place_does_not_look_empty(tmp_path):
    store = FolderStore(tmp_path)
    store.put("machines/a/key", [b"1"])
    (tmp_path / "machines" / "a").rename(tmp_path / "away")
    (tmp_path / "machines" / "a").write_bytes(b"")
    asked = [
        lambda: list(store.list("machines/a/")),
        lambda: list(store.list("machines/a/b/")),
        lambda: store.folders("machines/a/"),
        lambda: store.get("machines/a/key"),
        lambda: store.get_range("machines/a/key", 0, 1),
        lambda: store.put("machines/a/key", [b"2"]),
        lambda: store.put_if_absent("machines/a/b/key", [b"2"]),
    ]
    for ask in asked:
        with pytest.raises(Unreachable, match="has a file in place of a folder"):
            ask()
    (tmp_path / "machines" / "a").unlink()
    assert list(store.list("machines/a/")) == [], "the control: what is not there is empty"


@pytest.mark.parametrize(
    "url", ["ftp://x", "s3://key:secret@bucket", "file://host/path", "az://c?sig=1", "file:relative"]
)
def test_urls_that_name_no_store_or_hold_secrets_are_refused(url):
    with pytest.raises(Malformed):
        open_store(url)
