"""Deduplication domains: machines of different ones share nothing and learn nothing of each other."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from blake3 import blake3
from tests.unit.vault.faulty_store import KillableStore, Killed
from tests.unit.vault.synthetic import MACHINE, Machine, memory_vault
from tests.unit.vault.test_scrub import whole_round
from tests.waiting import PATIENCE

from farshore.formats import vault_names
from farshore.formats.chunk_exchange import Comparison, Verdict
from farshore.model.errors import Damaged, Forbidden, NotFound
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, MachineId
from farshore.model.policy import ReplicationPolicy
from farshore.vault import Vault
from farshore.vault.keys.port import ChunkKeys
from farshore.vault.objects.opening import seal_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.erasure import erase
from farshore.vault.upkeep.rebase import rebase
from farshore.vault.upkeep.retention import apply_retention
from farshore.vault.upkeep.turns import maintain, one_policy, usage
from farshore.vault.upkeep.verify import verify

OTHER = MachineId(MACHINE.replace("7", "8"))
SIZE = 2 << 20
NEWEST_ONLY = ReplicationPolicy(hot_window=0, keep_hourly=1, keep_daily=0)


def reopened(vault: Vault) -> Vault:
    return Vault.open_with_vault_key(vault.store, bytes.fromhex(vault.key_hex))


def machine(vault: Vault, domain: str, machine_id: MachineId = MACHINE) -> Machine:
    """Machines that this makes have the same contents."""
    made = Machine(vault, 3, {0: SIZE}, machine_id)
    made.step = 20 * 60 * 1_000_000_000
    made.fill()
    made.domain = vault.domain(domain)
    return made


def packs(vault: Vault) -> set[str]:
    return {item.name for item in vault.store.list(vault_names.CHUNKS)}


def answer_about(asking: Machine, block: bytes) -> Verdict:
    """What a machine hears that asks whether the vault has a block, by the hash that it can make."""
    copy = asking.in_vault.bases.begin_copy(Epoch(99), [(DiskNumber(0), SIZE)], None, asking.domain)
    digest = blake3(block, key=asking.vault.chunk_store(asking.domain).keys.hash).digest()
    verdicts = copy.compare(Comparison(DiskNumber(0), 0, np.frombuffer(digest, np.uint8).reshape(1, 32)))
    copy.close()
    return Verdict(int(verdicts[0]))


@pytest.mark.parametrize(
    ("mine", "theirs", "shared"), [("a", "a", True), ("", "", True), ("a", "b", False), ("", "b", False)]
)
def test_machines_share_chunks_and_answers_within_their_domain_only(mine: str, theirs: str, shared: bool) -> None:
    vault = memory_vault()
    first, second = machine(vault, mine), machine(vault, theirs, OTHER)
    secret = bytes(first.disks[0][:CHUNK])
    sent = first.begin_epoch(None)
    before = packs(vault)
    assert answer_about(first, secret) is Verdict.HAVE
    assert answer_about(second, secret) is (Verdict.HAVE if shared else Verdict.SEND)
    assert second.begin_epoch(None) == (0 if shared else sent)
    assert bool(packs(vault) - before) is not shared
    for each in (first, second):
        each.in_vault = reopened(vault).machine(each.id)
        each.check(each.in_vault.points.latest().position)


def test_a_hash_of_one_domain_says_nothing_in_another() -> None:
    vault = memory_vault()
    hashes = {vault.chunk_store(vault.domain(name)).keys.hash for name in ("", "a", "b")}
    seals = {vault.chunk_store(vault.domain(name)).keys.seal.secret for name in ("", "a", "b")}
    assert len(hashes | seals) == 6


def test_all_work_on_a_vault_goes_over_every_domain() -> None:
    vault = memory_vault()
    every = [machine(vault, "a"), machine(vault, "b", OTHER), machine(vault, "", MachineId(MACHINE.replace("7", "6")))]
    for each in every:
        each.begin_epoch(None)
        for number in range(3):
            each.journal(2, 1, 20)
            parent = max(each.states)
            each.disks[0][number * CHUNK : number * CHUNK + 4000] = each.random.randbytes(4000)
            each.begin_epoch(parent, "resync", overlay=4)
        each.journal(8, 1, 20)
        compact(each.in_vault, Tiers(segments=3, fan=2))
        assert rebase(each.in_vault, longest=1)
        each.in_vault = reopened(vault).machine(each.id)
        for position in each.states:
            each.check(position)
        apply_retention(each.in_vault, NEWEST_ONLY)
    assert verify(reopened(vault), data=True).findings == []
    for _ in range(2):
        assert maintain(reopened(vault), one_policy(NEWEST_ONLY), grace=0).troubles == {}
    assert whole_round(vault) == []
    assert verify(vault, data=True).findings == []
    assert usage(vault, one_policy(NEWEST_ONLY)).part_dead >= 0
    left = packs(vault)
    assert {vault_names.chunk_domain(name) for name in left} == {each.domain for each in every}
    erase(vault, every[1].id)
    assert {vault_names.chunk_domain(name) for name in packs(vault)} == {every[0].domain, 0}
    for each in (every[0], every[2]):
        each.check(max(each.states))
    collect(vault, one_policy(NEWEST_ONLY), grace=0)
    assert verify(reopened(vault), data=True).findings == []


def test_damage_in_a_domain_is_found_and_a_resync_heals_it() -> None:
    vault = memory_vault()
    first, second = machine(vault, "a"), machine(vault, "", OTHER)
    for each in (first, second):
        each.begin_epoch(None)
        each.journal(2, 1, 5)
    (name,) = [name for name in packs(vault) if vault_names.chunk_domain(name)]
    data = bytearray(vault.store.get(name))
    data[100] ^= 1
    vault.store.put(name, [data])
    found = whole_round(vault)
    assert {one.object for one in found} >= {name}
    assert {one.machine for one in found} == {"", first.id}
    first.vault = vault = reopened(vault)
    first.in_vault = vault.machine(first.id)
    first.begin_epoch(first.in_vault.points.latest().position, "resync")
    first.check(max(first.states))


def test_a_lost_key_costs_its_domain_alone_and_is_told_once() -> None:
    vault = memory_vault()
    first, second = machine(vault, "a"), machine(vault, "", OTHER)
    for each in (first, second):
        each.begin_epoch(None)
    key = vault_names.chunk_key(first.domain)
    lost = bytes(vault.store.get(key))
    vault.store.delete(key)
    fresh = reopened(vault)
    found = verify(fresh, data=True).findings
    assert [one.object for one in found if one.object.startswith(("keys/", "chunks/"))] == [key]
    assert {one.machine for one in found} == {"", first.id}
    second.in_vault = fresh.machine(second.id)
    second.check(max(second.states))
    first.in_vault = fresh.machine(first.id)
    with pytest.raises(Damaged, match="deduplication domain"):
        first.check(max(first.states))
    for _ in range(2):
        assert collect(fresh, one_policy(NEWEST_ONLY), grace=0).deleted == 0
    # No new key takes its place: the old one may come back from a copy.
    with pytest.raises(Damaged, match=key):
        reopened(vault).domain("a")
    assert all(item.name != key for item in vault.store.list(vault_names.DOMAIN_KEYS))
    vault.store.put(key, [lost])
    first.in_vault = reopened(vault).machine(first.id)
    first.check(max(first.states))
    vault.store.put(vault_names.DOMAIN_KEYS + "strange", [b""])
    assert verify(reopened(vault), data=True).findings == []


@pytest.mark.parametrize("name", ["", "a"])
def test_a_proof_goes_by_the_hashes_of_the_machines_domain(name: str) -> None:
    made = machine(memory_vault(), name)
    made.begin_epoch(None)
    made.journal(1, 1, 5)
    newest = max(made.states)
    key = made.vault.chunk_store(made.domain).keys.hash
    chunks = [bytes(made.disks[0][start : start + CHUNK]) for start in range(0, SIZE, CHUNK)]
    digests = [blake3(one, key=key).digest() if any(one) else bytes(32) for one in chunks]
    hashes = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32).copy()
    hashes[3] ^= 1
    equal = made.in_vault.proofs.equal_chunks(newest, DiskNumber(0), np.arange(len(chunks)), hashes)
    assert np.flatnonzero(~equal).tolist() == [3]


def test_an_epoch_stands_on_none_of_another_domain() -> None:
    vault = memory_vault()
    made = machine(vault, "")
    made.begin_epoch(None)
    made.journal(1, 1, 5)
    parent = max(made.states)
    made.domain = vault.domain("a")
    with pytest.raises(NotFound, match="another deduplication domain"):
        made.begin_epoch(parent, "resync")
    sent = made.begin_epoch(None)
    assert sent == machine(vault, "b", OTHER).begin_epoch(None)
    for position in made.states:
        made.check(position)
    made.journal(1, 1, 5)
    assert made.begin_epoch(max(made.states), "resync") == 0


def test_who_has_the_keys_of_one_domain_opens_nothing_of_another() -> None:
    vault = memory_vault()
    first, second = machine(vault, "a"), machine(vault, "b", OTHER)
    for each in (first, second):
        each.begin_epoch(None)

    class Held:
        upkeep = vault.upkeep_key

        def chunks(self, domain: int, asked: MachineId | None = None) -> ChunkKeys:
            if (domain, asked) != (first.domain, first.id):
                raise Forbidden("Not served.", remedy="Ask elsewhere.")
            return vault.chunk_store(domain).keys

        def machine(self, wanted: MachineId, create: bool) -> SealingKey:
            return vault.machine(wanted, create).key

    held = Vault.with_keys(vault.store, Held())
    first.in_vault = held.machine(first.id)
    first.check(max(first.states))
    # Not even with the other machine's own key.
    second.in_vault = held.machine(second.id)
    with pytest.raises(Forbidden):
        second.check(max(second.states))


def test_keys_that_are_long_in_coming_hold_up_nobody_else() -> None:
    """As where the configuration server is away: another machine's keys are in memory, and it goes on."""
    vault = memory_vault()
    made = machine(vault, "")
    made.begin_epoch(None)
    asked, answered = threading.Event(), threading.Event()

    class Slow:
        upkeep = vault.upkeep_key

        def chunks(self, domain: int, _asked: MachineId | None = None) -> ChunkKeys:
            return vault.chunk_store(domain).keys

        def machine(self, wanted: MachineId, create: bool) -> SealingKey:
            if wanted == OTHER:
                asked.set()
                assert answered.wait(PATIENCE)
            return vault.machine(wanted, create).key

    held = Vault.with_keys(vault.store, Slow())
    made.in_vault = held.machine(made.id)
    waiting = threading.Thread(target=held.machine, args=(OTHER, True))
    waiting.start()
    assert asked.wait(PATIENCE)
    going_on = threading.Thread(target=lambda: (held.machine(made.id), made.check(max(made.states))))
    going_on.start()
    going_on.join(PATIENCE)
    assert not going_on.is_alive()
    answered.set()
    waiting.join()


def test_a_machine_that_is_erased_while_its_key_is_read_is_gone() -> None:
    vault = memory_vault()
    made = machine(vault, "")
    made.begin_epoch(None)
    fresh = reopened(vault)
    read = fresh._keys.machine

    def erased_meanwhile(wanted: MachineId, create: bool) -> SealingKey:
        key = read(wanted, create)
        fresh._keys.machine = read  # type: ignore[method-assign]
        fresh.erase_machine(wanted)
        return key

    fresh._keys.machine = erased_meanwhile  # type: ignore[method-assign]
    with pytest.raises(NotFound, match="erased"):
        fresh.machine(made.id)


def test_a_name_is_always_the_same_domain_and_no_two_names_are() -> None:
    vault = memory_vault()
    assert vault.domain("") == 0
    number = vault.domain("a")
    assert reopened(vault).domain("a") == number > 0
    assert vault.domain("b") not in (0, number)
    # As if "c" fell on the number of "a".
    wanted = vault.domain("c")
    taken = memory_vault_like(vault, wanted)
    other = taken.domain("c")
    assert other == wanted + 1
    assert reopened(taken).domain("c") == other
    assert taken.domains() == [0, wanted, other]


def memory_vault_like(vault: Vault, taken: int) -> Vault:
    """The same vault, where another name has the number ``taken``."""
    name = vault_names.chunk_key(taken)
    for item in list(vault.store.list(vault_names.DOMAIN_KEYS)):
        vault.store.delete(item.name)

    document = seal_document(
        SealingKey(bytes.fromhex(vault.key_hex)), name, {"format": 1, "key": "00" * 32, "name": "z"}
    )
    vault.store.put(name, document.buffers)
    return reopened(vault)


def test_a_kill_while_a_domain_is_made_and_first_used() -> None:
    at = 0
    while True:
        vault = memory_vault()
        store = KillableStore(vault.store, at)
        made = machine(vault, "")
        made.begin_epoch(None)
        killed = Vault.open_with_vault_key(store, bytes.fromhex(vault.key_hex))
        try:
            made.domain = killed.domain("a")
            made.in_vault = killed.machine(made.id)
            made.begin_epoch(None)
        except Killed:
            store.at = None
            fresh = reopened(vault)
            made.vault, made.in_vault = fresh, fresh.machine(made.id)
            made.domain = fresh.domain("a")
            made.begin_epoch(None)
            made.check(made.in_vault.points.latest().position)
            lost = [
                one for one in verify(fresh, data=True).findings if one.object != vault_names.epoch(made.id, Epoch(2))
            ]
            assert lost == []
        else:
            break
        at += 1
    assert at >= 4


@pytest.mark.parametrize("domain", [0, 1, 0xFFFFFFFF])
def test_names_of_packs_tell_their_domain(domain: int) -> None:
    name = vault_names.chunk_pack(bytes(range(0xF0, 0x100)), domain)
    assert vault_names.chunk_domain(name) == domain
    assert name.startswith(vault_names.chunk_packs(domain))
    # Those of domain 0 come first: its listing ends at the first of another.
    assert vault_names.chunk_pack(b"\xff" * 16) < vault_names.chunk_pack(bytes(16), 1)
