"""Steps that a job adds while it runs. They are shown as queued until they run, and count in the fraction done.

Relies on: an addition is a separate recorded step, whose output is what was added. So it survives the server, and a
resumed job adds nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dbos import DBOS, StepInfo

from farshore.durable.steps import USUAL, run_step
from farshore.model.errors import Malformed, Refused
from farshore.model.text import repeated

MOST_STEPS = 1000
"""Steps that one job may add in all."""
MOST_LETTERS = 200
_ADD = "farshore.add_steps"
INTERNAL = ("DBOS.", "farshore.")
"""Prefix of recorded names that are not steps for users."""


@dataclass(frozen=True)
class PlannedStep:
    """A step that is still to come; ``child``: it is a job of its own."""

    name: str
    child: bool = False


def add_steps(names: Sequence[str], *, children: bool = False) -> None:
    """Add steps to the running job, after the step that ended last. Call it in the workflow.

    Raises Malformed for a name that is empty, too long or repeated, Refused for too many."""
    for name in names:
        if not 0 < len(name) <= MOST_LETTERS or name.startswith(INTERNAL):
            raise Malformed(
                f"{name[:MOST_LETTERS]!r} is not a valid name of a step.", remedy="Use 1 to 200 characters."
            )
    run_step(_ADD, USUAL, _add, str(DBOS.workflow_id), list(names), children)


def _add(job: str, names: list[str], children: bool) -> list[list[object]]:
    present = [step.name for step in _added(DBOS.list_workflow_steps(job))]
    if len(present) + len(names) > MOST_STEPS:
        raise Refused(f"A job has at most {MOST_STEPS} added steps.", remedy="Split the work into several jobs.")
    twice = repeated([*present, *names])
    if twice is not None:
        raise Malformed(f"The step {twice!r} occurs twice.", remedy="Name each step once.")
    return [[name, children] for name in names]


def planned(declared: Iterable[str], recorded: Iterable[StepInfo]) -> list[PlannedStep]:
    """Return all steps of a job in the order of display: those declared, and each addition after the step before it."""
    steps = [PlannedStep(name) for name in declared]
    after = 0
    for step in recorded:
        if step["function_name"] == _ADD:
            added = _added([step])
            steps[after:after] = added
            after += len(added)
        else:
            at = next((number for number, one in enumerate(steps) if one.name == step["function_name"]), None)
            after = after if at is None else max(after, at + 1)
    return steps


def _added(recorded: Iterable[StepInfo]) -> list[PlannedStep]:
    return [
        PlannedStep(str(name), bool(child))
        for step in recorded
        if step["function_name"] == _ADD
        for name, child in step["output"] or []
    ]
