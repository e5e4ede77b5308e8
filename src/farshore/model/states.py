"""The states of machines, failovers and jobs, and which may follow which."""

from __future__ import annotations

import enum
from typing import FrozenSet, Mapping

from farshore.model.errors import WrongState


class MachineState(enum.Enum):
    """The state of a machine between protection and failback."""

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
    MachineState.FAILING_OVER: frozenset(
        {MachineState.FAILED_OVER, MachineState.PROTECTED, MachineState.RESYNC, MachineState.COMMITTED}
    ),
    MachineState.FAILED_OVER: frozenset({MachineState.COMMITTED, MachineState.FAILING_OVER, MachineState.RESYNC}),
    # Failing over again: from an older point, as long as retention keeps it.
    MachineState.COMMITTED: frozenset({MachineState.RESYNC, MachineState.FAILING_OVER, MachineState.UNPROTECTED}),
    MachineState.UNPROTECTED: frozenset({MachineState.ENROLLED}),
}

FORGETTABLE = frozenset({MachineState.ENROLLED, MachineState.UNPROTECTED})
"""In these states a machine may be deleted, and its agent removed."""


def check_transition(before: MachineState, after: MachineState) -> None:
    """Raise WrongState unless a machine may go from ``before`` to ``after``; staying is always allowed."""
    if after is not before and after not in MACHINE_TRANSITIONS[before]:
        allowed = ", ".join(sorted(state.value for state in MACHINE_TRANSITIONS[before]))
        raise WrongState(
            f"A machine that is {before.value} cannot become {after.value}.",
            remedy=f"Its state can change to: {allowed}.",
        )


class Direction(enum.Enum):
    """Where a failover takes its machine."""

    AWAY = "away"
    """To the failover's site, as a place that is not the machine's own."""
    HOME = "home"
    """To the failover's site, which is where the machine belongs."""


ARRIVED: Mapping[Direction, MachineState] = {
    Direction.AWAY: MachineState.COMMITTED,
    # Its own hardware continues its stream; its disks are first compared with the copy.
    Direction.HOME: MachineState.RESYNC,
}
"""The state of a machine after a failover of it was committed."""


class FailoverState(enum.Enum):
    """The state of a failover, or of a test. Whether its machine is up is another question (see its condition)."""

    REQUESTED = "requested"
    WORKING = "working"
    """Its job is bringing the machine up."""
    RUNNING = "running"
    FAILED = "failed"
    """Only its record and its console output remain."""
    CANCELLED = "cancelled"
    """As failed, because a user requested it."""
    SUPERSEDED = "superseded"
    """The machine was brought up from another point, or at another place, instead; its overlay is kept until the
    commit."""
    COMMITTED = "committed"
    CLEANED_UP = "cleaned-up"


FAILOVER_TRANSITIONS: Mapping[FailoverState, FrozenSet[FailoverState]] = {
    FailoverState.REQUESTED: frozenset(
        {FailoverState.WORKING, FailoverState.FAILED, FailoverState.CANCELLED, FailoverState.CLEANED_UP}
    ),
    FailoverState.WORKING: frozenset(
        {FailoverState.RUNNING, FailoverState.FAILED, FailoverState.CANCELLED, FailoverState.CLEANED_UP}
    ),
    FailoverState.RUNNING: frozenset({FailoverState.SUPERSEDED, FailoverState.COMMITTED, FailoverState.CLEANED_UP}),
    FailoverState.FAILED: frozenset({FailoverState.CLEANED_UP}),
    FailoverState.CANCELLED: frozenset({FailoverState.CLEANED_UP}),
    # Back to its former state: its replacement could not be brought up.
    FailoverState.SUPERSEDED: frozenset({FailoverState.RUNNING, FailoverState.COMMITTED, FailoverState.CLEANED_UP}),
    FailoverState.COMMITTED: frozenset({FailoverState.SUPERSEDED, FailoverState.CLEANED_UP}),
    FailoverState.CLEANED_UP: frozenset(),
}

UNDER_WAY = frozenset({FailoverState.REQUESTED, FailoverState.WORKING})
UP = frozenset({FailoverState.RUNNING, FailoverState.COMMITTED})
"""Its machine should run, unless a user stopped it."""
PRESENT = UNDER_WAY | UP | {FailoverState.SUPERSEDED}
"""Something of it is, or may be, at the recovery site."""


class FailoverAction(enum.Enum):
    """An action on a failover."""

    START = "start"
    STOP = "stop"
    COMMIT = "commit"
    REPROTECT = "reprotect"
    CLEAN_UP = "cleanup"
    DELETE = "delete"


_OVER = frozenset({FailoverState.FAILED, FailoverState.CANCELLED})

FAILOVER_ACTIONS: Mapping[FailoverAction, FrozenSet[FailoverState]] = {
    FailoverAction.START: UP,
    FailoverAction.STOP: UP,
    FailoverAction.COMMIT: frozenset({FailoverState.RUNNING}),
    FailoverAction.REPROTECT: frozenset({FailoverState.COMMITTED}),
    # In progress: if its job has ended all the same.
    FailoverAction.CLEAN_UP: UNDER_WAY | _OVER | {FailoverState.SUPERSEDED},
    FailoverAction.DELETE: _OVER | {FailoverState.CLEANED_UP, FailoverState.COMMITTED},
}
TEST_ACTIONS: Mapping[FailoverAction, FrozenSet[FailoverState]] = {
    **FAILOVER_ACTIONS,
    FailoverAction.COMMIT: frozenset(),
    FailoverAction.REPROTECT: frozenset(),
    FailoverAction.CLEAN_UP: FAILOVER_ACTIONS[FailoverAction.CLEAN_UP] | {FailoverState.RUNNING},
}


def applies(action: FailoverAction, state: FailoverState, *, test: bool) -> bool:
    """Return whether ``action`` may be requested, according to the state."""
    return state in (TEST_ACTIONS if test else FAILOVER_ACTIONS)[action]


def check_failover_transition(before: FailoverState, after: FailoverState) -> None:
    """Raise WrongState unless a failover may go from ``before`` to ``after``; staying is always allowed."""
    if after is not before and after not in FAILOVER_TRANSITIONS[before]:
        raise WrongState(
            f"A failover that is {before.value} cannot become {after.value}.",
            remedy="See the possible actions: farshore failover show",
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
