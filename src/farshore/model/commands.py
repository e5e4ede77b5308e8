"""What the configuration server may ask of an agent, and how such a command can end."""

from __future__ import annotations

import enum
from typing import FrozenSet, Mapping

from farshore.model.errors import WrongState


class CommandKind(enum.Enum):
    """A closed set: an agent answers a kind that it does not know with a failure."""

    POINT = "point"
    """Cut a recovery point now."""
    RESYNC = "resync"
    """Compare all disks with the copy, in a new epoch."""
    UPGRADE = "upgrade"
    """Become another release of the agent."""
    PROVE = "prove"
    """Prove that the copy equals the disks."""
    UNINSTALL = "uninstall"
    """Take itself off the machine, which is not protected any more."""
    SHUT_DOWN = "shut-down"
    """Shut the machine down so that all it has written lies before its last point."""


REPEATABLE: FrozenSet[CommandKind] = frozenset(
    {CommandKind.RESYNC, CommandKind.UPGRADE, CommandKind.PROVE, CommandKind.UNINSTALL}
)
"""Kinds that may be carried out twice without harm: the second time finds the work done, or does it anew. Of the others
(a point, which freezes file systems and gets a place in the stream) an agent that was cut off does not know whether it
did them, and says so."""


class CommandState(enum.Enum):
    """Where a command stands."""

    WAITING = "waiting"
    """Offered to the agent until its result is there."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """The agent could not do it, and said why."""
    WITHDRAWN = "withdrawn"
    """Closed without the agent: nobody waits for it any more, or the machine was fenced."""


COMMAND_TRANSITIONS: Mapping[CommandState, FrozenSet[CommandState]] = {
    CommandState.WAITING: frozenset({CommandState.SUCCEEDED, CommandState.FAILED, CommandState.WITHDRAWN}),
    CommandState.SUCCEEDED: frozenset(),
    CommandState.FAILED: frozenset(),
    CommandState.WITHDRAWN: frozenset(),
}


def check_command_transition(before: CommandState, after: CommandState) -> None:
    """Raise WrongState unless a command may go from ``before`` to ``after``. What is closed stays as it is."""
    if after not in COMMAND_TRANSITIONS[before]:
        raise WrongState(
            f"A command that is {before.value} cannot become {after.value}.",
            remedy="Repeat the command, which makes a new one.",
        )
