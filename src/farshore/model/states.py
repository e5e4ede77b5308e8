"""The states of machines and jobs, and which may follow which."""

from __future__ import annotations

import enum
from typing import FrozenSet, Mapping

from farshore.model.errors import WrongState


class MachineState(enum.Enum):
    """Where a machine stands between protection and failback."""

    ENROLLED = "enrolled"
    INITIAL_REPLICATION = "initial-replication"
    PROTECTED = "protected"
    RESYNC = "resync"
    FAILING_OVER = "failing-over"
    FAILED_OVER = "failed-over"
    COMMITTED = "committed"
    UNPROTECTED = "unprotected"


MACHINE_TRANSITIONS: Mapping[MachineState, FrozenSet[MachineState]] = {
    MachineState.ENROLLED: frozenset({MachineState.INITIAL_REPLICATION, MachineState.UNPROTECTED}),
    MachineState.INITIAL_REPLICATION: frozenset(
        {MachineState.PROTECTED, MachineState.INITIAL_REPLICATION, MachineState.UNPROTECTED}
    ),
    MachineState.PROTECTED: frozenset({MachineState.RESYNC, MachineState.FAILING_OVER, MachineState.UNPROTECTED}),
    MachineState.RESYNC: frozenset(
        {MachineState.PROTECTED, MachineState.RESYNC, MachineState.FAILING_OVER, MachineState.UNPROTECTED}
    ),
    MachineState.FAILING_OVER: frozenset({MachineState.FAILED_OVER, MachineState.PROTECTED, MachineState.RESYNC}),
    MachineState.FAILED_OVER: frozenset({MachineState.COMMITTED, MachineState.FAILING_OVER, MachineState.RESYNC}),
    MachineState.COMMITTED: frozenset({MachineState.RESYNC, MachineState.UNPROTECTED}),
    MachineState.UNPROTECTED: frozenset({MachineState.ENROLLED}),
}


def check_transition(before: MachineState, after: MachineState) -> None:
    """Raise WrongState unless a machine may go from ``before`` to ``after``; staying is always allowed."""
    if after is not before and after not in MACHINE_TRANSITIONS[before]:
        allowed = ", ".join(sorted(state.value for state in MACHINE_TRANSITIONS[before]))
        raise WrongState(
            f"A machine that is {before.value} cannot become {after.value}.",
            remedy=f"From here it can become: {allowed}.",
        )


class CaptureMode(enum.Enum):
    """How the mobility service learns of writes."""

    DATA = "data"
    BITMAP = "bitmap"
    SCAN = "scan"


class JobState(enum.Enum):
    """A long operation's state."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
