"""What a failback's job has a master target do: asked for once, waited for, its outcome taken once; and the disks that
were written are those that this host has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.configuration_server.offices import MovableClock
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine, fresh_catalog

from farshore.api_types.commands import CommandFailure
from farshore.api_types.master_targets import ErrandProgress, ErrandResult, MasterTargetReport
from farshore.catalog import master_targets
from farshore.catalog.database import Catalog
from farshore.catalog.tables import MasterTargetRow
from farshore.configuration_server import master_targets as handing_out
from farshore.configuration_server.master_targets import MasterTargets, running_system
from farshore.delivery.in_place import HomeOrder
from farshore.formats.disk_notice import DiskNotice
from farshore.model.errors import Cancelled, NotFound, Refused, TooSmall, TryLater, WrongState
from farshore.model.home_task import DiskPlace, Errand
from farshore.protection import errands

OWN, OTHER = "44444444-4444-4444-8444-444444444444", "55555555-5555-4555-8555-555555555555"
Step = Callable[[], None]


class Court:
    """A catalog, a job that waits, and a master target that takes a step whenever the job rests."""

    def __init__(self, folder: Path) -> None:
        self.catalog: Catalog = fresh_catalog(folder)
        self.disk = folder / "disk"
        self.disk.write_bytes(bytes(1 << 20))
        self.steps: list[Step] = []
        self.said: list[tuple[float, str]] = []
        self.rests = 0
        with self.catalog.writing() as tx:
            add_machine(tx)
            master_targets.invite(tx, MasterTargetRow(id=OWN, name="own", own=True, registered=1))
            master_targets.invite(tx, MasterTargetRow(id=OTHER, name="second", registered=1))
        self.order = HomeOrder(Errand.FOLLOW, "f1", MACHINE, (DiskPlace(0, str(self.disk)),))

    def _rest(self, _seconds: float) -> None:
        self.rests += 1
        if self.steps:
            self.steps.pop(0)()

    def perform(self, **changes: Any) -> None:
        targets = MasterTargets(self.catalog, MovableClock(), self._rest)
        targets.perform(replace(self.order, **changes), lambda done, words: self.said.append((done, words)))

    def begin(self, by: str = OWN, run: str = "r1") -> None:
        with self.catalog.writing() as tx:
            row = master_targets.get(tx, by)
            (number,) = errands.report(tx, row, MasterTargetReport(version="1"), NOW).errands
            errands.begin(tx, row, number, run)

    def note(self, by: str = OWN, run: str = "r1") -> None:
        with self.catalog.writing() as tx:
            row = master_targets.get(tx, by)
            said = ErrandProgress(run=run, fraction=0.25, detail="a quarter")
            errands.note(tx, row, master_targets.open_of(tx, by)[0], said)

    def end(self, by: str = OWN, run: str = "r1", **values: Any) -> None:
        with self.catalog.writing() as tx:
            row = master_targets.get(tx, by)
            errands.end(tx, row, master_targets.open_of(tx, by)[0], ErrandResult(run=run, **values))

    def mark(self, machine: str = MACHINE, disk: int = 0) -> None:
        with self.disk.open("r+b") as file:
            file.write(DiskNotice("v" * 36, machine, disk, "c").encode())

    def is_idle(self) -> bool:
        with self.catalog.reading() as tx:
            return master_targets.errand_of(tx, "f1") is None


@pytest.fixture
def court(tmp_path: Path) -> Any:
    made = Court(tmp_path)
    yield made
    made.catalog.close()


def test_it_is_done_by_the_installations_own_and_said_how_far_it_is(court: Court) -> None:
    court.mark()
    court.steps = [court.begin, court.note, court.end]
    court.perform()
    assert court.said == [(0.0, "the master target own has not begun")] * 2 + [(0.25, "a quarter")]
    assert court.is_idle(), "the outcome is taken once"


def test_another_does_it_where_it_is_named(court: Court) -> None:
    court.mark()
    court.steps = [lambda: court.begin(OTHER), lambda: court.end(OTHER)]
    court.perform(master_target=OTHER)
    assert court.is_idle()


def test_a_failure_is_the_jobs_and_may_be_asked_for_anew(court: Court) -> None:
    failure = CommandFailure(code="too-small", message="It is.", remedy="Take another.")
    court.steps = [court.begin, lambda: court.end(failure=failure)]
    with pytest.raises(TooSmall, match="It is"):
        court.perform(errand=Errand.LOOK)
    assert court.is_idle()
    court.steps = [court.begin, court.end]
    court.perform(errand=Errand.LOOK)


def test_a_job_that_was_resumed_takes_the_outcome_that_came_meanwhile(court: Court) -> None:
    def dies() -> None:
        raise KeyboardInterrupt

    court.steps = [court.begin, dies]
    with pytest.raises(KeyboardInterrupt):
        court.perform(errand=Errand.FINISH, position="1:7")
    court.end()
    court.perform(errand=Errand.FINISH, position="1:7")
    assert court.is_idle()


def test_one_that_is_cancelled_is_not_wanted_any_more(court: Court) -> None:
    def cancelled(_done: float, _words: str) -> None:
        raise Cancelled("Cancelled.", remedy="-")

    targets = MasterTargets(court.catalog, MovableClock(), court._rest)
    with pytest.raises(Cancelled):
        targets.perform(court.order, cancelled)
    targets.forget("f1")
    assert court.is_idle()
    targets.forget("f1")


def test_one_that_was_forgotten_elsewhere_is_asked_for_anew(court: Court) -> None:
    def forget() -> None:
        with court.catalog.writing() as tx:
            master_targets.drop_errand(tx, "f1")

    court.steps = [forget]
    with pytest.raises(TryLater):
        court.perform()


@pytest.mark.parametrize(("errand", "error"), [(Errand.LOOK, WrongState), (Errand.FOLLOW, TryLater)])
def test_a_silent_master_target_is_given_up_sooner_while_nothing_has_stopped(
    court: Court, errand: Errand, error: type[Exception]
) -> None:
    with pytest.raises(error, match="own does not report"):
        court.perform(errand=errand)
    wanted = handing_out.QUIET_LOOKS_FIRST if errand is Errand.LOOK else handing_out.QUIET_LOOKS
    assert court.rests == wanted + 1, "the first look is no silence"
    court.rests, court.steps = 0, [court.begin, *[court.note] * 10]
    with pytest.raises(error):
        court.perform(errand=errand)
    assert court.rests == wanted + 12, "each sign is waited from anew"


def test_without_one_it_is_said_what_to_do(court: Court) -> None:
    with court.catalog.writing() as tx:
        master_targets.delete(tx, master_targets.get(tx, OWN))
    with pytest.raises(NotFound, match="runs no master target"):
        court.perform()


@pytest.mark.parametrize("found", ["another machine's", "another disk", "none", "gone"])
def test_a_disk_of_this_host_that_another_host_does_not_write_is_found_before_anything_stops(
    court: Court, found: str
) -> None:
    if found == "gone":
        court.disk.unlink()
    elif found != "none":
        court.mark("other" if found == "another machine's" else MACHINE, 1 if found == "another disk" else 0)
    court.steps = [court.begin, court.end]
    with pytest.raises(Refused, match=r"of this server's host|cannot read it"):
        court.perform()


def test_an_image_is_written_by_a_master_target_of_this_host_alone(court: Court) -> None:
    places = (DiskPlace(0, str(court.disk), "qcow2"),)
    with pytest.raises(Refused, match="is an image"):
        court.perform(errand=Errand.LOOK, places=places, master_target=OTHER)
    with court.catalog.writing() as tx:
        master_targets.get(tx, OTHER).host = running_system()
    court.steps = [lambda: court.begin(OTHER), lambda: court.end(OTHER)]
    court.perform(errand=Errand.LOOK, places=places, master_target=OTHER)
