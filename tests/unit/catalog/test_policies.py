"""Policies and their failback policies: made together, followed by machines that are replicated from a site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine, fresh_catalog

from farshore.catalog import machines, policies
from farshore.catalog.database import Catalog
from farshore.catalog.tables import PolicyRow
from farshore.model.errors import Refused, WrongState
from farshore.model.policy import ReplicationPolicy
from farshore.protection.heartbeats import desired

GOLD = ReplicationPolicy(name="gold", rpo_threshold=60, hot_window=7200, bandwidth=("1 MiB/s",), target={"site": "dr"})


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    with made.writing() as tx:
        policies.create(tx, GOLD)
        add_machine(tx, policy="gold", state="protected")
    yield made
    made.close()


def test_a_failback_policy_is_made_with_its_policy_and_has_its_values_but_for_the_target(catalog: Catalog) -> None:
    with catalog.reading() as tx:
        assert policies.failback_names(tx) == {"default": "default-failback", "gold": "gold-failback"}
        made = policies.get(tx, "gold-failback")
        assert (made.reverses, made.rpo_threshold, made.hot_window, tuple(made.bandwidth)) == (
            "gold", 60, 7200, ("1 MiB/s",),
        )  # fmt: skip
        assert made.target == {}, "its target is home"
        assert policies.targets_away(tx)["gold-failback"] == {"site": "dr"}


def test_what_was_not_chosen_for_it_follows_its_policy(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        policies.change(tx, "gold-failback", {"rpo_threshold": 300, "target": {"site": "home"}})
        policies.change(tx, "gold", {"rpo_threshold": 30, "hot_window": 3600, "target": {"site": "other"}})
    with catalog.reading() as tx:
        gold, back = policies.get(tx, "gold"), policies.get(tx, "gold-failback")
        assert (gold.rpo_threshold, gold.hot_window, gold.target) == (30, 3600, {"site": "other"})
        assert (back.rpo_threshold, back.hot_window, back.target) == (300, 3600, {"site": "home"})
        assert policies.target_home(tx, "gold") == policies.target_home(tx, "gold-failback") == {"site": "home"}


def test_a_machine_obeys_it_while_it_is_replicated_from_a_site(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        policies.change(tx, "gold-failback", {"crash_consistent_every": 60, "bandwidth": []})
        row = machines.get(tx, MACHINE)
        machines.runs_at(row, "dr", "recovered")
        for _ in range(2):  # asked for once more it changes nothing
            policies.turn_away(tx, row)
            assert row.policy == "gold-failback"
        wanted = desired(tx, row, NOW)
        assert (wanted.crash_consistent_every, wanted.bandwidth) == (60, [])
        policies.create(tx, ReplicationPolicy(name="silver"))
        policies.give(tx, row, "silver")
        assert row.policy == "silver-failback", "another policy is another one in both directions"
        machines.runs_at_home(tx, row)
        assert row.policy == "silver"
        policies.give(tx, row, "gold")
        assert (row.policy, desired(tx, row, NOW).crash_consistent_every) == ("gold", 5)


def test_a_failback_policy_is_given_to_no_machine_and_goes_with_its_policy(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        with pytest.raises(Refused, match="is the failback policy of 'gold'"):
            policies.give(tx, row, "gold-failback")
        with pytest.raises(WrongState, match="cannot be deleted alone"):
            policies.delete(tx, "gold-failback")
        policies.turn_away(tx, row)
        with pytest.raises(WrongState, match=r"is in use \(db1\)"):
            policies.delete(tx, "gold")
        policies.give(tx, row, "default")
        policies.delete(tx, "gold")
        assert [one.name for one in policies.every(tx)] == ["default", "default-failback"]


def test_its_name_is_one_that_was_free(catalog: Catalog) -> None:
    long = "a" * 63
    with catalog.writing() as tx:
        policies.create(tx, ReplicationPolicy(name="silver-failback"))
        policies.create(tx, ReplicationPolicy(name="silver"))
        policies.create(tx, ReplicationPolicy(name=long))
        policies.create(tx, ReplicationPolicy(name=f"{long[:-1]}b"))
        names = policies.failback_names(tx)
        assert names["silver"] == "silver-failback-2"
        assert names["silver-failback"] == "silver-failback-failback"
        assert names[long] != names[f"{long[:-1]}b"]
        assert max(map(len, names.values())) <= 63


def test_one_that_is_missing_is_made(catalog: Catalog) -> None:
    """As after a catalog of an earlier release was made anew."""
    with catalog.writing() as tx:
        tx.delete(tx.get_one(PolicyRow, "gold-failback"))
        tx.flush()
        policies.ensure_default(tx)
        assert policies.get(tx, "gold-failback").rpo_threshold == 60
