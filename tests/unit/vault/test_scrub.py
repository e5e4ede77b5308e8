"""The scrub reads everything within its period, goes on after a restart, and what it finds a resync heals."""

from __future__ import annotations

import pytest
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats import vault_names
from farshore.model.errors import Damaged, Unreachable
from farshore.model.identifiers import CHUNK
from farshore.model.policy import ReplicationPolicy
from farshore.vault import Vault
from farshore.vault.objects import damage
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.retention import apply_retention
from farshore.vault.upkeep.scrub import DAY, affecting_newest, read_state, scrub

PERIOD = 10 * DAY
HOUR = DAY // 24


@pytest.fixture
def machine():
    made = Machine(memory_vault(), 61, {0: 3 << 20, 1: 512 << 10})
    made.fill()
    made.step = 10 * 60 * 10**9
    made.begin_epoch(None)
    made.journal(segments=24, batches=1, count=10)
    return made


def damaged(machine: Machine, part: str, place: int = 100, which: int = 0) -> str:
    name = [item.name for item in machine.vault.store.list("") if part in item.name][which]
    data = bytearray(machine.vault.store.get(name))
    data[place] ^= 1
    machine.vault.store.put(name, [data])
    return name


def whole_round(vault: Vault, begin: int = 1) -> list[damage.Finding]:
    found = []
    for moment in range(begin, begin + PERIOD + DAY, DAY):
        found += scrub(vault, PERIOD, lambda moment=moment: moment, lambda _size: True).found
    return found


def reopened(machine: Machine) -> Vault:
    return Vault.open_with_vault_key(machine.vault.store, bytes.fromhex(machine.vault.key_hex))


def noted(machine: Machine) -> list[damage.Finding]:
    return damage.listed(machine.vault.store, machine.vault.upkeep_key)


def test_a_round_reads_every_byte_once_over_its_period_across_restarts(machine):
    size = sum(item.size for part in ("chunks/", "machines/") for item in machine.vault.store.list(part))
    days = []
    for moment in range(DAY, DAY + PERIOD + 1, DAY // 2):
        days.append(scrub(reopened(machine), PERIOD, lambda moment=moment: moment, lambda _size: True).read)
    assert sum(days) == size == read_state(machine.vault).total
    assert read_state(machine.vault).over
    assert sum(1 for read in days if read) > 1  # not in one go, though an object is read as a whole
    assert noted(machine) == []
    again = DAY + PERIOD + HOUR
    scrub(machine.vault, PERIOD, lambda: again, lambda _size: True)
    assert not read_state(machine.vault).over


def test_it_stops_when_told_and_goes_on_there(machine):
    first = scrub(machine.vault, PERIOD, lambda: DAY, lambda _size: False)
    cursor = read_state(machine.vault).cursor
    assert 0 < first.read < read_state(machine.vault).total
    scrub(reopened(machine), PERIOD, lambda: 2 * PERIOD, lambda _size: True)
    assert read_state(machine.vault).done == read_state(machine.vault).total
    assert cursor < read_state(machine.vault).cursor


def test_a_store_that_fails_ends_the_step_and_loses_no_findings(machine):
    class Failing:
        def __init__(self) -> None:
            self.left = 40

        def __getattr__(self, name: str) -> object:
            return getattr(machine.vault.store, name)

        def get_range(self, name: str, start: int, length: int) -> object:
            self.left -= 1
            if self.left == 0:
                raise Unreachable("gone", remedy="wait")
            return machine.vault.store.get_range(name, start, length)

    damaged(machine, "chunks/")
    vault = Vault.open_with_vault_key(Failing(), bytes.fromhex(machine.vault.key_hex))
    with pytest.raises(Unreachable):
        whole_round(vault)
    whole_round(machine.vault, PERIOD * 3)
    assert noted(machine)


def heal(machine: Machine) -> int:
    """A resync; answers how many chunks were sent."""
    parent = machine.in_vault.points.latest().position
    machine.go_back(parent)
    return machine.begin_epoch(parent, "resync")


@pytest.mark.parametrize("restart", [False, True])
def test_a_damaged_chunk_is_located_and_a_resync_sends_it_again(restart):
    machine = Machine(memory_vault(), 62, {0: 3 << 20, 1: 512 << 10})
    machine.fill()
    machine.begin_epoch(None)
    name = damaged(machine, "chunks/")
    before = heal(machine)  # nobody knows of it yet: dedupe trusts it
    assert before == 0
    found = whole_round(machine.vault)
    place = [one for one in found if one.disk >= 0]
    assert {(one.machine, one.end - one.start, one.from_position) for one in place} == {(machine.id, CHUNK, "1:0")}
    assert any(one.object == name for one in found)
    newest = machine.in_vault.points.latest().position
    with pytest.raises(Damaged):
        reopen_and_check(machine, newest)
    assert affecting_newest(machine.vault, machine.id, place) == place
    if restart:
        machine.vault = reopened(machine)
        machine.in_vault = machine.vault.machine(machine.id)
    assert heal(machine) > 0
    assert affecting_newest(machine.vault, machine.id, place) == []
    reopen_and_check(machine, machine.in_vault.points.latest().position)
    # The old states stay damaged, and are told so.
    with pytest.raises(Damaged, match=f"Bytes .* of disk {place[0].disk}"):
        reopen_and_check(machine, newest)
    assert [one for one in noted(machine) if one.disk >= 0] == place


@pytest.mark.parametrize("part", ["/segments/", "/layers/", "/data/", "/bases/", "chunks/"])
@pytest.mark.parametrize("how", ["data", "index", "gone"])
def test_a_resync_heals_whatever_is_damaged(machine, part, how):
    compact(machine.in_vault, Tiers(segments=4, fan=2))
    apply_retention(machine.in_vault, ReplicationPolicy(hot_window=3600, keep_hourly=1, keep_daily=0))
    truth = machine.here()
    names: list[str] = []
    for which in (0, -1):
        if how == "gone":
            names = [item.name for item in machine.vault.store.list("") if part in item.name]
            if names:
                machine.vault.store.delete(names[which])
        else:
            damaged(machine, part, 70 if how == "data" else -300, which)
    machine.vault = reopened(machine)
    machine.in_vault = machine.vault.machine(machine.id)
    whole_round(machine.vault)
    # An index over segments that are there is no loss: it is made again.
    assert not names or part == "/layers/" or noted(machine), "the scrub has not found what is missing"
    for number, data in truth.items():
        machine.disks[number] = bytearray(data)
    parent = machine.in_vault.points.latest().position if "bases" not in part else None
    try:
        machine.begin_epoch(parent, "resync")
    except Damaged:
        machine.epoch -= 1
        machine.begin_epoch(None, "resync")
    machine.journal(segments=2, batches=1, count=10)
    reopen_and_check(machine, machine.in_vault.points.latest().position)
    assert affecting_newest(machine.vault, machine.id, noted(machine)) == []


def reopen_and_check(machine: Machine, position: object) -> None:
    machine.in_vault = reopened(machine).machine(machine.id)
    machine.check(position)  # type: ignore[arg-type]


def test_what_is_whole_again_is_forgotten(machine):
    name = next(item.name for item in machine.vault.store.list("chunks/"))
    good = bytes(machine.vault.store.get(name))
    damaged(machine, "chunks/")
    assert whole_round(machine.vault)
    machine.vault.store.put(name, [good])
    done = scrub(machine.vault, PERIOD, lambda: 2 * PERIOD + DAY, lambda _size: True)
    assert {one.object for one in done.passed} >= {name}
    assert noted(machine) == []


def test_a_damaged_epoch_leaves_the_others_usable_and_is_never_taken_for_dead(machine):
    older = machine.in_vault.points.latest().position
    heal(machine)
    machine.journal(segments=2, batches=1, count=5)
    document = vault_names.epoch(machine.id, machine.in_vault.points.latest().position.epoch)
    damaged(machine, document, 70)
    machine.in_vault = reopened(machine).machine(machine.id)
    machine.check(older)
    assert machine.in_vault.points.listed()[-1].position == older
    with pytest.raises(Damaged, match="epoch 2"):
        machine.in_vault.points.latest()
    assert any(one.object == document for one in whole_round(machine.vault))
    with pytest.raises(Damaged):
        machine.in_vault.stored.timeline(with_condemned=True)
    machine.begin_epoch(None, "resync")
    machine.check(machine.in_vault.points.latest().position)
