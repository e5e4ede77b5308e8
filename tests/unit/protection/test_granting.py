"""Epochs: who may send, on top of what, and who is shut out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import (
    MACHINE,
    NOW,
    add_machine,
    add_server,
    become_consistent,
    description,
    fresh_catalog,
    request,
)

from farshore.api_types.machines import Description, EpochKind
from farshore.catalog import epochs, machines, policies
from farshore.catalog.database import Catalog
from farshore.catalog.tables import EpochRow
from farshore.model.errors import Fenced, Malformed, TryLater, WrongState
from farshore.protection.granting import Domain, check_open, domain_name, fence, grant


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    with made.writing() as tx:
        add_server(tx)
        add_machine(tx)
    yield made
    made.close()


def granted(catalog: Catalog, **values: object) -> EpochRow:
    with catalog.writing() as tx:
        return grant(tx, machines.get(tx, MACHINE), request(**values), add_server(tx), NOW)


def test_the_first_epoch_starts_the_initial_replication(catalog: Catalog) -> None:
    row = granted(catalog)
    assert (row.epoch, row.kind, row.parent_epoch) == (1, "initial", 0)
    with catalog.reading() as tx:
        machine = machines.get(tx, MACHINE)
        assert (machine.state, machine.epoch, machine.run) == ("initial-replication", 1, "run-1")


def test_a_new_run_fences_the_old(catalog: Catalog) -> None:
    granted(catalog)
    granted(catalog, run="run-2")
    with catalog.reading() as tx:
        with pytest.raises(Fenced):
            check_open(epochs.get(tx, MACHINE, 1))
        check_open(epochs.get(tx, MACHINE, 2))


def test_grants_at_the_same_time_get_different_epochs_and_one_stays_open(catalog: Catalog) -> None:
    numbers: list[int] = []

    def ask(run: str) -> None:
        numbers.append(granted(catalog, run=run).epoch)

    threads = [threading.Thread(target=ask, args=(f"run-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))
    with catalog.reading() as tx:
        history = epochs.history(tx, MACHINE)
        assert [row.epoch for row in history if not row.closed] == [8]
        assert machines.get(tx, MACHINE).run == history[-1].run


@pytest.mark.parametrize("state", ["failing-over", "failed-over", "committed"])
def test_a_machine_that_runs_elsewhere_is_fenced(catalog: Catalog, state: str) -> None:
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).state = state
    with pytest.raises(Fenced):
        granted(catalog)
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).epoch == 0


def test_an_unprotected_machine_gets_none(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).protect = False
    with pytest.raises(WrongState):
        granted(catalog)


def test_other_hardware_with_the_same_certificate_is_fenced(catalog: Catalog) -> None:
    with pytest.raises(Fenced, match="other hardware"):
        granted(catalog, description=description(hardware="hw-2"))


@pytest.mark.parametrize(
    ("owner", "theirs", "goes"),
    [
        ("recovered", "recovered", True),
        ("recovered", "hw-1", False),  # the old source
        ("recovered", "", False),
        ("", "", False),
        ("", "hw-1", False),
    ],
)
def test_a_machine_that_a_site_runs_is_granted_to_the_instance_there(
    catalog: Catalog, owner: str, theirs: str, goes: bool
) -> None:
    with catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        row.hardware_id = "hw-1"
        machines.runs_at(row, "qemu", owner)
    if goes:
        assert granted(catalog, description=description(hardware=theirs)).epoch == 1
    else:
        with pytest.raises(Fenced, match="runs at qemu on"):
            granted(catalog, description=description(hardware=theirs))
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).hardware_id == "hw-1"


def test_a_description_that_cannot_be_is_refused(catalog: Catalog) -> None:
    twice = description(disks=2)
    twice.disks[1] = twice.disks[0]
    with pytest.raises(Malformed):
        granted(catalog, description=twice)


def test_a_resync_without_a_whole_epoch_becomes_initial(catalog: Catalog) -> None:
    granted(catalog)
    assert granted(catalog, kind=EpochKind.RESYNC, run="run-2").kind == "initial"


def test_a_resync_stands_on_what_the_vault_holds(catalog: Catalog) -> None:
    granted(catalog)
    become_consistent(catalog, 1, consistent_from=10, stored=100)
    row = granted(catalog, kind=EpochKind.RESYNC, run="run-2")
    assert (row.kind, row.parent_epoch, row.parent_sequence) == ("resync", 1, 100)


def test_a_resync_skips_an_epoch_that_never_became_whole(catalog: Catalog) -> None:
    granted(catalog)
    become_consistent(catalog, 1)
    granted(catalog, kind=EpochKind.RESYNC, run="run-2")
    assert granted(catalog, kind=EpochKind.RESYNC, run="run-3").parent_epoch == 1


def heal(catalog: Catalog, **values: object) -> EpochRow:
    asked = {"kind": EpochKind.HEAL, "parent_epoch": 1, "parent_sequence": 120, **values}
    return granted(catalog, **asked)


def test_a_heal_stands_on_what_was_acknowledged(catalog: Catalog) -> None:
    granted(catalog)
    become_consistent(catalog, 1, stored=100)
    row = heal(catalog)
    assert (row.kind, row.parent_epoch, row.parent_sequence) == ("heal", 1, 120)


def test_an_unfinished_heal_may_be_healed_again(catalog: Catalog) -> None:
    granted(catalog)
    become_consistent(catalog, 1)
    heal(catalog)
    row = heal(catalog)
    assert (row.epoch, row.kind, row.parent_epoch, row.parent_sequence) == (3, "heal", 1, 120)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"run": "run-2"}, "another run has no bitmap of what came before it"),
        ({"parent_epoch": 0}, "it does not say what it continues"),
        ({"parent_sequence": 5}, "the parent was not consistent there"),
    ],
)
def test_a_heal_that_cannot_be_trusted_becomes_a_resync(catalog: Catalog, values: dict[str, object], why: str) -> None:
    granted(catalog)
    become_consistent(catalog, 1)
    assert heal(catalog, **values).kind == "resync", why


@pytest.mark.parametrize("changed", [description(size=2 << 30), description(disks=2)])
def test_disks_that_came_or_grew_are_no_reason_to_compare_all_of_them(catalog: Catalog, changed: Description) -> None:
    granted(catalog)
    become_consistent(catalog, 1)
    assert heal(catalog, description=changed).kind == "heal"


def test_a_heal_across_a_fence_becomes_a_resync(catalog: Catalog) -> None:
    granted(catalog)
    become_consistent(catalog, 1)
    with catalog.writing() as tx:
        fence(tx, machines.get(tx, MACHINE), NOW, "a failover began")
    assert heal(catalog).kind == "resync"


def test_fencing_leaves_no_open_epoch_and_no_open_command(catalog: Catalog) -> None:
    granted(catalog)
    with catalog.writing() as tx:
        fence(tx, machines.get(tx, MACHINE), NOW, "a failover began")
    with catalog.reading() as tx, pytest.raises(Fenced, match="a failover began"):
        check_open(epochs.get(tx, MACHINE, 1))


APART = Domain(f"machine:{MACHINE}", 7)


def set_deduplication(catalog: Catalog, value: str) -> None:
    with catalog.writing() as tx:
        policies.change(tx, "default", {"deduplication": value})


def granted_in(catalog: Catalog, domain: Domain, **values: object) -> EpochRow:
    with catalog.writing() as tx:
        return grant(tx, machines.get(tx, MACHINE), request(**values), add_server(tx), NOW, domain)


@pytest.mark.parametrize("kind", [EpochKind.RESYNC, EpochKind.HEAL])
def test_an_epoch_in_another_deduplication_domain_stands_alone(catalog: Catalog, kind: EpochKind) -> None:
    granted(catalog)
    become_consistent(catalog, 1)
    set_deduplication(catalog, "machine")
    asked = {"kind": kind, "parent_epoch": 1, "parent_sequence": 120}
    row = granted_in(catalog, APART, **asked)
    assert (row.kind, row.parent_epoch, row.domain, row.domain_name) == ("initial", 0, 7, APART.name)
    become_consistent(catalog, 2)
    row = granted_in(catalog, APART, **{**asked, "parent_epoch": 2})
    assert (row.kind, row.parent_epoch, row.domain) == (kind.value, 2, 7)


def test_an_epoch_goes_by_the_policy_of_the_moment_that_it_is_granted(catalog: Catalog) -> None:
    with catalog.reading() as tx:
        assert domain_name(tx, machines.get(tx, MACHINE)) == ""
    for value, name in (("machine", APART.name), ("label:finance", "label:finance")):
        set_deduplication(catalog, value)
        with catalog.reading() as tx:
            assert domain_name(tx, machines.get(tx, MACHINE)) == name
        with pytest.raises(TryLater):
            granted(catalog)
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).epoch == 0


def test_after_a_failover_an_epoch_grows_from_the_position_that_was_chosen(catalog: Catalog) -> None:
    """Until one of the new line is consistent; what the old line has after that position is no part of it."""
    granted(catalog)
    become_consistent(catalog, 1, stored=90)
    with catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        row.state = "resync"
        machines.runs_at(row, "qemu", "recovered")
        machines.begin_line(row, 1, 40)
    for run in ("there", "there-again"):
        one = granted(catalog, run=run, kind=EpochKind.RESYNC, description=description(hardware="recovered"))
        assert (one.kind, one.parent_epoch, one.parent_sequence, one.exact) == ("resync", 1, 40, True)
    heal = granted(
        catalog, run="there-again", kind=EpochKind.HEAL, parent_epoch=1, parent_sequence=90,
        description=description(hardware="recovered"),
    )  # fmt: skip
    assert (heal.kind, heal.parent_epoch, heal.parent_sequence, heal.exact) == ("resync", 1, 40, True)
    become_consistent(catalog, heal.epoch, consistent_from=3, stored=7)
    after = granted(catalog, run="next", kind=EpochKind.RESYNC, description=description(hardware="recovered"))
    assert (after.parent_epoch, after.parent_sequence, after.exact) == (heal.epoch, 7, False)


def test_a_line_whose_beginning_is_in_another_domain_begins_anew(catalog: Catalog) -> None:
    granted(catalog)
    become_consistent(catalog, 1, stored=90)
    with catalog.writing() as tx:
        machines.begin_line(machines.get(tx, MACHINE), 1, 40)
        epochs.get(tx, MACHINE, 1).domain = 3
    one = granted(catalog, run="there", kind=EpochKind.RESYNC)
    assert (one.kind, one.parent_epoch, one.exact) == ("initial", 0, False)
