"""Jobs with children and added steps, in the real engine: what is started, told, asked to end, and shown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.configuration_server.family import Family
from tests.waiting import until

from farshore.api_types.jobs import Job
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.durable.children import MOST_CHILDREN, child_job
from farshore.durable.outcomes import ENDED
from farshore.model.errors import NotFound, WrongState
from farshore.model.identifiers import JobId
from farshore.model.states import JobState


class World:
    def __init__(self, folder: Path) -> None:
        self.family = Family(folder)
        self.folder = folder
        self.engine = JobEngine(f"sqlite:///{folder / 'jobs.sqlite'}", self.family.definitions)
        self.engine.launch()

    def start(self, *leaves: dict[str, Any], **more: Any) -> Job:
        return self.engine.start("family", {"subject": "the family", "leaves": list(leaves), **more})

    def until(self, job: Job, what: Callable[[Job], bool]) -> Job:
        until(lambda: what(self.engine.show(JobId(job.id))), f"job {job.id}", pause=0.01)
        return self.engine.show(JobId(job.id))

    def ended(self, job: Job) -> Job:
        return self.until(job, lambda found: found.state in ENDED)

    def wait_for(self, line: str) -> None:
        until(lambda: line in self.family.log(), line, pause=0.01)

    def let(self, name: str) -> None:
        (self.folder / f"go-{name}").touch()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    logging.getLogger("dbos").setLevel(logging.ERROR)  # a test defines its jobs anew, which DBOS warns of
    made = World(tmp_path)
    yield made
    for name in ("look", *"abcd"):
        made.let(name)
    made.engine.close(patience=5)


def leaf(name: str, **more: Any) -> dict[str, Any]:
    return {"subject": name, **more}


def steps(job: Job) -> list[tuple[str, str]]:
    return [(step.name, step.state.value) for step in job.steps]


def test_children_run_in_order_and_stand_among_the_steps_of_their_parent(world: World) -> None:
    job = world.ended(world.start(leaf("a"), leaf("b"), extra=True))
    assert job.result["results"] == ["a", "b"]
    assert [step.name for step in job.steps] == ["look", "extra", "do a", "do b", "sum up"]
    assert {step.state for step in job.steps} == {JobState.SUCCEEDED}
    log = world.family.log()
    assert log == ["look", "extra", "prepare a", "one a", "two a", "prepare b", "one b", "two b", "sum up"]


def test_the_tree_is_shown(world: World) -> None:
    job = world.start(leaf("a", wait=True), leaf("b", wait=True), leaf("c"), at_once=2)
    a, b = child_job(job.id, "do a"), child_job(job.id, "do b")
    waiting = [
        ("look", "succeeded"),
        ("do a", "running"),
        ("do b", "running"),
        ("do c", "queued"),
        ("sum up", "queued"),
    ]
    shown = world.until(job, lambda found: [step.detail for step in found.steps[1:3]] == ["two", "two"])
    assert steps(shown) == waiting
    assert [step.job for step in shown.steps] == ["", a, b, "", ""]
    assert shown.children == 2
    assert shown.fraction == pytest.approx((1 + 0.5 + 0.5) / 5)
    (top,) = world.engine.listed()
    assert (top.id, top.parent, top.children) == (job.id, "", 2)
    assert [child.id for child in world.engine.listed(parent=JobId(job.id))] == [a, b]
    assert world.engine.show(JobId(a)).parent == job.id
    with pytest.raises(NotFound):
        world.engine.listed(parent=JobId("nothing"))
    world.let("a")
    world.let("b")
    assert world.ended(job).result["results"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("policy", "states", "asked"),
    [
        ("go-on", ["succeeded", "failed", "succeeded"], []),
        ("stop", ["succeeded", "failed", "cancelled"], []),
        ("cancel", ["cancelled", "failed", "cancelled"], ["asked a"]),
    ],
)
def test_what_becomes_of_the_others_when_one_fails(
    world: World, policy: str, states: list[str], asked: list[str]
) -> None:
    job = world.start(leaf("a", wait=True), leaf("b", fail=True), leaf("c"), at_once=2, on_failure=policy)
    world.until(job, lambda found: ("do b", "failed") in steps(found))
    if policy != "cancel":
        world.let("a")
    ended = world.ended(job)
    assert (ended.state, ended.result["states"]) == (JobState.SUCCEEDED, states)
    assert ended.result["errors"][1] == "b cannot."
    assert [line for line in world.family.log() if line.startswith("asked")] == asked
    assert [state for _, state in steps(ended)[1:4]] == states
    assert ("one c" in world.family.log()) == (policy == "go-on")


def test_a_child_that_cannot_be_prepared_has_failed(world: World) -> None:
    ended = world.ended(world.start(leaf("a", unready=True), leaf("b")))
    assert ended.result["states"] == ["failed", "succeeded"]
    assert steps(ended)[1:3] == [("do a", "failed"), ("do b", "succeeded")]
    assert (ended.steps[1].detail, ended.steps[1].job) == ("a is not ready. Make it so.", "")


def test_cancelling_a_parent_asks_its_children_the_newest_first_and_waits_for_them(world: World) -> None:
    leaves = [leaf("a", wait=True, stubborn=True), leaf("b", wait=True), leaf("c", wait=True), leaf("d")]
    job = world.start(*leaves, at_once=3)
    world.wait_for("one c")
    world.until(job, lambda found: found.children == 3)
    for _ in range(2):
        assert world.engine.cancel(JobId(job.id)).state is JobState.RUNNING
    world.wait_for("asked a")
    asked = [line for line in world.family.log() if line.startswith("asked")]
    assert asked == ["asked c", "asked b", "asked a"]
    world.until(job, lambda found: {("do b", "cancelled"), ("do c", "cancelled")} <= set(steps(found)))
    assert world.engine.show(JobId(job.id)).state is JobState.RUNNING  # a goes to its end
    world.let("a")
    ended = world.ended(job)
    assert (ended.result["cancelled"], ended.result["states"]) == (
        True,
        ["succeeded", "cancelled", "cancelled", "cancelled"],
    )
    assert ended.steps[4].detail == "not started"
    with pytest.raises(WrongState):
        world.engine.cancel(JobId(job.id))


def test_a_parent_cancelled_before_its_first_child_starts_none(world: World) -> None:
    job = world.start(leaf("a"), leaf("b"), hold=True)
    world.wait_for("look")
    world.engine.cancel(JobId(job.id))
    world.let("look")
    ended = world.ended(job)
    assert (ended.result["cancelled"], ended.result["states"]) == (True, ["cancelled", "cancelled"])
    assert [step.detail for step in ended.steps[1:3]] == ["not started", "not started"]
    assert world.family.log() == ["look", "sum up"]


def test_a_child_cancelled_by_itself_counts_as_one_that_failed(world: World) -> None:
    job = world.start(leaf("a", wait=True), leaf("b"), on_failure="stop")
    world.wait_for("one a")
    world.engine.cancel(JobId(child_job(job.id, "do a")))
    ended = world.ended(job)
    assert (ended.result["cancelled"], ended.result["states"]) == (False, ["cancelled", "cancelled"])


@pytest.mark.parametrize(
    ("leaves", "more", "error"),
    [
        ([leaf(str(number)) for number in range(MOST_CHILDREN + 1)], {}, "at most 256 jobs"),
        ([leaf("a")], {"at_once": 17}, "at most 256 jobs, of which 16"),
        ([leaf("a"), leaf("a")], {}, "'do a' occurs twice"),
        ([leaf("a" * 200)], {}, "is not a valid name of a step"),
    ],
)
def test_what_a_job_may_start_is_bounded(
    world: World, leaves: list[dict[str, Any]], more: dict[str, Any], error: str
) -> None:
    ended = world.ended(world.start(*leaves, **more))
    assert ended.state is JobState.FAILED
    assert error in ended.error
    assert world.engine.listed(parent=JobId(ended.id)) == []
