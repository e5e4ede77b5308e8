"""A site that was declared lost: what it answers for, what it refuses, and how it is taken back."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.file_site import FileSite, Fuse
from tests.unit.protection.catalogs import MACHINE, NOW
from tests.unit.recovery.test_steps import FAILOVER, OTHER, World

from farshore.api_types.failovers import FailoverRequest
from farshore.catalog import sites
from farshore.catalog.tables import EventRow, SiteRow
from farshore.delivery.lost import LostDelivery
from farshore.model.errors import NotFound, Refused, TryLater, WrongState
from farshore.recovery import lost_sites
from farshore.recovery.asking import ask_for
from farshore.recovery.lost_sites import opened, take_back
from farshore.recovery.readiness import ReadinessWatch
from farshore.recovery.upkeep import LOST, Upkeep
from farshore.sites.lost import LostSite
from farshore.sites.port import Condition, FailoverId, RecoverySite, Way


class Silent(FileSite):
    """Answers nothing until ``back``."""

    back = False

    def present(self) -> tuple[FailoverId, ...]:
        self._ask()
        return super().present()

    def destroy(self, failover: FailoverId) -> None:
        self._ask()
        super().destroy(failover)

    def _ask(self) -> None:
        if not self.back:
            raise TryLater("The site does not answer.", remedy="")


class LostWorld(World):
    def __init__(self, folder: Path, way: Way = Way.SERVED) -> None:
        super().__init__(folder)
        self.silent = Silent(folder / "far", Fuse(0), way=way)
        with self.catalog.writing() as tx:
            sites.add(tx, SiteRow(id="files", kind="qemu"))

    def _site(self, kind: str) -> RecoverySite:  # type: ignore[override]
        return opened(self.catalog, kind, lambda _row: self.silent)

    def declare(self) -> LostSite:
        with self.catalog.writing() as tx:
            lost_sites.declare_lost(tx, "files", now=NOW, actor="user/eve")
        found = self.context.site("files")
        assert isinstance(found, LostSite)
        return found

    def row(self) -> SiteRow:
        with self.catalog.reading() as tx:
            return sites.get(tx, "files")


@pytest.fixture
def world(tmp_path: Path) -> LostWorld:
    return LostWorld(tmp_path)


def test_nothing_runs_there_and_nothing_comes_up_there(world: LostWorld) -> None:
    site = world.declare()
    failover = FailoverId(FAILOVER)
    assert site.status(failover).condition is Condition.ABSENT
    site.stop(failover, grace=0)
    with pytest.raises(Refused, match="declared lost"):
        site.start(failover)
    assert site.present() == ()
    with world.catalog.writing() as tx, pytest.raises(WrongState, match="declared lost"):
        ask_for(tx, MACHINE, FailoverRequest(kind="failover", site="files"), failover="f", job="j", now=NOW, actor="x")


def test_it_is_declared_once_and_that_is_in_the_record(world: LostWorld) -> None:
    world.declare()
    world.declare()
    with world.catalog.reading() as tx:
        (event,) = tx.query(EventRow).filter_by(kind="site.lost")
    assert (event.actor, event.subject) == ("user/eve", "site/files")
    assert world.row().lost == NOW
    with world.catalog.writing() as tx, pytest.raises(NotFound):
        lost_sites.declare_lost(tx, "nowhere", now=NOW, actor="user/eve")


def test_what_is_given_up_is_removed_before_it_counts_as_back(world: LostWorld) -> None:
    world.declare().destroy(FailoverId(FAILOVER))
    world.declare().destroy(FailoverId(FAILOVER))
    assert world.row().left == [FAILOVER]
    with pytest.raises(TryLater):
        take_back(world.context, "files", "user/eve")
    assert world.row().lost, "it does not answer"
    world.silent.back = True
    folder = world.context.files(FAILOVER).folder
    folder.mkdir(parents=True)
    assert take_back(world.context, "files", "user/eve") == [FAILOVER]
    assert not folder.exists()
    assert (world.row().lost, world.row().left) == (0, [])
    assert take_back(world.context, "files", "user/eve") == [], "again"


def test_what_is_given_up_while_it_is_taken_back_is_removed_too(world: LostWorld) -> None:
    site = world.declare()
    site.destroy(FailoverId(FAILOVER))
    world.silent.back = True
    removed: list[str] = []

    def destroy(failover: FailoverId) -> None:
        removed.append(failover)
        if failover == FAILOVER:
            site.destroy(FailoverId(OTHER))

    world.silent.destroy = destroy  # type: ignore[method-assign]
    assert take_back(world.context, "files", "user/eve") == [FAILOVER, OTHER] == removed
    with pytest.raises(TryLater, match="is back"):
        site.destroy(FailoverId(FAILOVER))  # of a job that had opened it before: its next try asks the site itself


@pytest.mark.parametrize("values", [{"state": "superseded"}, {"state": "running", "stopped": True}])
def test_what_counts_as_stopped_is_stopped_before_it_counts_as_back(
    world: LostWorld, values: dict[str, object]
) -> None:
    world.change(**values)
    world.declare().stop(FailoverId(FAILOVER), grace=0)  # it may run all the same
    world.silent.back = True
    stopped: list[tuple[str, bool]] = []

    def stop(failover: FailoverId, *, grace: float) -> None:
        stopped.append((failover, bool(world.row().lost)))

    world.silent.stop = stop  # type: ignore[method-assign]
    take_back(world.context, "files", "user/eve")
    assert stopped == [(FAILOVER, True)]
    assert not world.row().lost


def test_what_is_replaced_while_it_is_taken_back_is_stopped_too(world: LostWorld) -> None:
    world.change(state="running")
    world.declare().destroy(FailoverId(OTHER))
    world.silent.back = True
    stopped: list[str] = []
    world.silent.destroy = lambda _: world.change(state="superseded")  # type: ignore[method-assign]
    world.silent.stop = lambda failover, *, grace: stopped.append(failover)  # type: ignore[method-assign]
    assert take_back(world.context, "files", "user/eve") == [OTHER]
    assert stopped == [FAILOVER]


def test_a_machine_that_should_run_there_is_left_running(world: LostWorld) -> None:
    world.change(state="running")
    world.declare()
    world.silent.back = True
    world.silent.stop = lambda failover, *, grace: pytest.fail(failover)  # type: ignore[method-assign]
    take_back(world.context, "files", "user/eve")
    assert not world.row().lost


def test_a_site_where_nothing_was_left_must_answer_too(world: LostWorld) -> None:
    world.declare()
    with pytest.raises(TryLater):
        take_back(world.context, "files", "user/eve")
    assert world.row().lost


def test_one_where_something_was_left_is_not_forgotten(world: LostWorld) -> None:
    world.change(state="cleaned-up")
    world.declare().destroy(FailoverId(FAILOVER))
    with world.catalog.writing() as tx, pytest.raises(WrongState, match="may still run"):
        sites.remove(tx, sites.get(tx, "files"))
    world.silent.back = True
    take_back(world.context, "files", "user/eve")
    with world.catalog.writing() as tx:
        sites.remove(tx, sites.get(tx, "files"))


def test_only_a_lost_one_is_found(world: LostWorld) -> None:
    with world.catalog.reading() as tx, pytest.raises(WrongState, match="not declared lost"):
        lost_sites.check_lost(tx, "files")


def test_upkeep_leaves_its_machines_alone_and_says_what_to_do(world: LostWorld) -> None:
    world.change(state="running", condition="running")
    world.declare()
    upkeep = Upkeep(world.context)
    upkeep.look()
    (wrong,) = upkeep.conditions
    assert wrong.kind == LOST
    assert "farshore failback run" in wrong.remedy


def test_a_check_of_it_does_not_pass(world: LostWorld) -> None:
    world.declare()
    with pytest.raises(Refused, match="declared lost"):
        ReadinessWatch(world.context).check_site("files")


def test_uploaded_disks_are_given_up(tmp_path: Path) -> None:
    world = LostWorld(tmp_path, Way.UPLOADED)
    delivery = world.context.delivery(world.declare())
    assert isinstance(delivery, LostDelivery)
    delivery.withdraw(tmp_path)
    delivery.rest(tmp_path)
    assert not delivery.stands(tmp_path)
