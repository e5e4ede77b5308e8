"""One listing of a machine answers what many would; the look-over and the index read few objects."""

from __future__ import annotations

from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats import vault_names
from farshore.formats.batch import Role
from farshore.model.identifiers import Epoch
from farshore.vault import open_store
from farshore.vault.objects.segments import SegmentBuilder
from farshore.vault.stores.counted import CountedStore
from farshore.vault.stores.listed_once import ListedOnce
from farshore.vault.upkeep.compaction import compact
from farshore.vault.upkeep.verify import verify
from farshore.vault.vault import Vault


def names(store: ListedOnce, prefix: str, after: str = "") -> list[tuple[str, int]]:
    return [(item.name, item.size) for item in store.list(prefix, after)]


def test_listings_are_those_of_the_store_and_cost_one() -> None:
    inner = CountedStore(open_store("memory:///"))
    for name in ("m/a/1", "m/a/2", "m/ab", "m/b/1", "n/1", "m/a/10/5"):
        inner.put(name, [name.encode()])
    once = ListedOnce(inner, "m/")
    before = inner.requests["list"]
    for prefix, after in (("m/", ""), ("m/a/", ""), ("m/a/", "m/a/1"), ("m/a/", "m/a/10"), ("m/b/", "m/a/9"),
                          ("m/c/", ""), ("m/", "m/zz"), ("m/a/", "m/b")):  # fmt: skip
        assert list(once.list(prefix, after)) == list(inner.list(prefix, after)), (prefix, after)
    assert inner.requests["list"] == before + 1 + 8, "one for all of its own"
    assert names(once, "n/") == [("n/1", 3)]


def test_own_changes_count_and_those_of_others_when_it_is_told_to_forget() -> None:
    inner = open_store("memory:///")
    inner.put("m/1", [b"x"])
    once = ListedOnce(inner, "m/")
    going = once.list("m/")
    assert next(going).name == "m/1"
    once.put("m/2", [b"ab", b"c"])
    assert once.put_if_absent("m/3", [b"abcd"])
    assert list(going) == []
    assert names(once, "m/") == [("m/1", 1), ("m/2", 3), ("m/3", 4)]
    once.delete("m/2")
    inner.put("m/4", [b""])
    assert [name for name, _ in names(once, "m/")] == ["m/1", "m/3", "m/4"], "a deletion lists anew"
    inner.put("m/5", [b"other"])
    assert not once.put_if_absent("m/5", [b"mine"])
    assert names(once, "m/5") == []
    assert ("m/5", 5) in names(once, "m/")
    inner.put("m/6", [b""])
    assert ("m/6", 0) not in names(once, "m/")
    once.forget()
    assert ("m/6", 0) in names(once, "m/")


def journal(segments: int) -> tuple[Machine, Vault, CountedStore]:
    machine = Machine(memory_vault(), 3, {0: 1 << 20})
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=segments, batches=1, count=2)
    store = CountedStore(machine.vault.store)
    return machine, Vault.open_with_vault_key(store, bytes.fromhex(machine.vault.key_hex)), store


def test_a_light_look_opens_one_object_in_a_hundred_and_sees_what_is_missing_or_cut() -> None:
    machine, vault, store = journal(512)
    compact(machine.in_vault)
    before = store.requests["get"]
    assert verify(vault, light=True).findings == []
    chunk_packs = 1
    assert store.requests["get"] - before <= 512 // 100 + chunk_packs + 6, "and the documents of epoch and machine"
    before = store.requests["get"]
    assert verify(vault).findings == []
    assert store.requests["get"] - before > 512
    segments = list(machine.vault.store.list(vault_names.segments_folder(machine.id, Epoch(1), Role.JOURNAL)))
    missing, cut = segments[100], segments[400]
    machine.vault.store.delete(missing.name)
    assert missing.name in {one.object for one in verify(vault, light=True).findings}
    machine.vault.store.put(cut.name, [bytes(machine.vault.store.get(cut.name))[:-1]])
    assert {missing.name, cut.name} <= {one.object for one in verify(vault, light=True).findings}


def test_indexing_lists_only_what_follows_the_last_layer() -> None:
    machine, vault, _ = journal(128)
    compact(machine.in_vault)
    machine.journal(segments=64, batches=1, count=2)
    seen: list[str] = []
    inner = vault.store.list

    def listing(prefix: str, after: str = "") -> object:
        for item in inner(prefix, after):
            seen.append(item.name)
            yield item

    vault.store.list = listing  # type: ignore[method-assign, assignment]
    assert len(compact(vault.machine(machine.id))) == 1
    assert sum("/segments/" in name for name in seen) == 64, "of 192"
    for position in machine.states:
        machine.check(position) if position.sequence % 97 == 0 else None


def test_a_segment_that_reaches_over_the_end_of_a_layer_is_indexed_all_the_same() -> None:
    """What a process server cuts anew after a crash, and what holds all marks of a silence, begins before it."""
    machine, _, _ = journal(64)
    assert len(compact(machine.in_vault)) == 1
    builder = SegmentBuilder(machine.in_vault.key, machine.in_vault.id, Epoch(1), Role.JOURNAL)
    old = machine.in_vault.stored.timeline().behind(Epoch(1), 129)
    assert (old.chain, old.end) == ([], 129)
    builder.add(builder.seal(machine.batch(4)))
    machine.in_vault.writing.put_segment(builder.build())
    found = machine.in_vault.stored.timeline().behind(Epoch(1), 131)  # inside that segment, as if a layer ended there
    assert found.end == 133
    assert len(found.chain) == 1
