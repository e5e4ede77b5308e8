"""The commands that the configuration server may give an agent, and how such a command can end."""

from __future__ import annotations

import enum
from typing import FrozenSet, Mapping

from farshore.model.errors import WrongState


class CommandKind(enum.Enum):
    """A closed set: an agent answers a kind that it does not know with a failure."""

    POINT = "point"
    """Create a recovery point now."""
    RESYNC = "resync"
    """Compare all disks with the copy, in a new epoch."""
    UPGRADE = "upgrade"
    """Replace the agent by another release."""
    PROVE = "prove"
    """Prove that the copy equals the disks."""
    UNINSTALL = "uninstall"
    """Remove the agent from the machine, which is no longer protected."""
    SHUT_DOWN = "shut-down"
    """Shut the machine down so that all its writes are before its last point."""


REPEATABLE: FrozenSet[CommandKind] = frozenset(
    {CommandKind.RESYNC, CommandKind.UPGRADE, CommandKind.PROVE, CommandKind.UNINSTALL}
)
"""Kinds that may be carried out twice without harm: the second time finds the work done, or repeats it. For the others
(a point, which freezes file systems and gets a place in the stream) an interrupted agent does not know whether it did
them, and says so."""


class CommandState(enum.Enum):
    """The state of a command."""

    WAITING = "waiting"
    """Offered to the agent until its result is there."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """The agent could not do it, and said why."""
    WITHDRAWN = "withdrawn"
    """Closed without the agent: nobody waits for it any longer, or the machine was fenced."""


COMMAND_TRANSITIONS: Mapping[CommandState, FrozenSet[CommandState]] = {
    CommandState.WAITING: frozenset({CommandState.SUCCEEDED, CommandState.FAILED, CommandState.WITHDRAWN}),
    CommandState.SUCCEEDED: frozenset(),
    CommandState.FAILED: frozenset(),
    CommandState.WITHDRAWN: frozenset(),
}


def check_command_transition(before: CommandState, after: CommandState) -> None:
    """Raise WrongState unless a command may go from ``before`` to ``after``. A closed command never changes."""
    if after not in COMMAND_TRANSITIONS[before]:
        raise WrongState(
            f"A command that is {before.value} cannot become {after.value}.",
            remedy="Repeat the command, which makes a new one.",
        )
