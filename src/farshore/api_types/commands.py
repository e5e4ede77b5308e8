"""Commands to agents: a kind, its arguments, and the result.

``GET /v1/machines/self/commands`` is a stream that stays open: a line of JSON, ``Commands``, with the open commands,
another line with each change, and an empty line at least every ``KEEP_ALIVE`` seconds. An agent answers each command
with ``PUT /v1/machines/self/commands/{command}/result``. The envelope is lenient and its content is strict: a command
that an agent does not understand fails alone, and never keeps the agent from the others, above all ``upgrade``.
"""

from __future__ import annotations

from typing import Annotated, Any, Dict, List, Literal, Mapping, Optional, Type, Union

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from farshore.api_types.body import Body, Label, Moment, Natural, Prose
from farshore.api_types.machines import MOST_DISKS, DiskProof
from farshore.model.commands import CommandKind, CommandState
from farshore.model.errors import FarshoreError, Unsupported
from farshore.model.point import PointKind

MOST_COMMANDS = 32
"""Commands of one machine that are offered at once, the oldest first."""
MOST_PLACES = 32
"""Places that an agent may list when it removes itself."""
KEEP_ALIVE = 50.0
"""Seconds after which something is sent on a stream, even an empty line: below the 60 s after which many proxies, and
our clients, give up."""


class PointArguments(Body):
    """Create a point of this kind; ``name`` may be empty. ``hold``: maximum seconds for which the file systems remain
    frozen after it; None: they are thawed at once. Agents of earlier releases do not know this field, so it is sent
    only if it is set."""

    kind: PointKind = PointKind.CRASH_CONSISTENT
    name: Label = ""
    hold: Optional[int] = Field(default=None, ge=1, le=120)


class ResyncArguments(Body):
    """No arguments."""


class UpgradeArguments(Body):
    """``release`` is what ``GET /v1/machines/self/bundles/{release}`` returns as a .tar.gz, ``digest`` its SHA-256 in
    hex."""

    release: Label
    digest: Label


class ProveArguments(Body):
    """``whole``: every chunk of every disk."""

    whole: bool = False


class UninstallArguments(Body):
    """No arguments."""


class ShutDownArguments(Body):
    """Stop the machine's services within ``services`` seconds, freeze its file systems for at most ``hold`` seconds,
    and switch it off once its last point, with this ``name``, is with the process server and its answer was received.
    Agents of earlier releases do not know the command, and answer so."""

    name: Label = ""
    services: int = Field(default=60, ge=1, le=1800)
    hold: int = Field(default=60, ge=1, le=120)


Arguments = Union[
    PointArguments, ResyncArguments, UpgradeArguments, ProveArguments, UninstallArguments, ShutDownArguments
]
ARGUMENTS: Mapping[CommandKind, Type[Arguments]] = {
    CommandKind.POINT: PointArguments,
    CommandKind.RESYNC: ResyncArguments,
    CommandKind.UPGRADE: UpgradeArguments,
    CommandKind.PROVE: ProveArguments,
    CommandKind.UNINSTALL: UninstallArguments,
    CommandKind.SHUT_DOWN: ShutDownArguments,
}


class PointResult(Body):
    """The position of the point, and its time by the machine's clock (ns since 1970 UTC)."""

    kind: Literal["point"] = "point"
    epoch: Natural
    sequence: Natural
    time: Moment


class ResyncResult(Body):
    """The next epoch begins by comparing."""

    kind: Literal["resync"] = "resync"


class UpgradeResult(Body):
    """This release runs."""

    kind: Literal["upgrade"] = "upgrade"
    release: Label


class ProveResult(Body):
    """The numbers of chunks that are equal, that differed and were sent again, and that were written each time they
    were read."""

    kind: Literal["prove"] = "prove"
    proven: Natural
    differing: Natural
    busy: Natural
    disks: List[DiskProof] = Field(default=[], max_length=MOST_DISKS, fail_fast=True)
    """The proven share of each disk afterwards."""


class UninstallResult(Body):
    """What of the agent was removed, and what remains, each with the reason. What its answer needs (certificate and
    key) is removed when the answer was received, and with it the process."""

    kind: Literal["uninstall"] = "uninstall"
    removed: List[Prose] = Field(default=[], max_length=MOST_PLACES, fail_fast=True)
    stays: List[Prose] = Field(default=[], max_length=MOST_PLACES, fail_fast=True)


class ShutDownResult(Body):
    """The position of the last point, with its time by the machine's clock (ns since 1970 UTC): the process server has
    everything up to it, and nothing was written after it. ``still``: services that had not ended in time."""

    kind: Literal["shut-down"] = "shut-down"
    epoch: Natural
    sequence: Natural
    time: Moment
    still: List[Label] = Field(default=[], max_length=MOST_PLACES, fail_fast=True)


Payload = Annotated[
    Union[PointResult, ResyncResult, UpgradeResult, ProveResult, UninstallResult, ShutDownResult],
    Field(discriminator="kind"),
]


class CommandFailure(Body):
    """Why the agent could not do it. ``code`` is one of farshore.model.errors."""

    code: Label
    message: Prose
    remedy: Prose = ""


class CommandResult(Body):
    """``PUT /v1/machines/self/commands/{command}/result``: ``payload``, of the command's kind, or ``failure``."""

    payload: Optional[Payload] = None
    failure: Optional[CommandFailure] = None

    @model_validator(mode="after")
    def _one_of_two(self) -> CommandResult:
        if (self.payload is None) == (self.failure is None):
            raise ValueError("a result has a payload or a failure")
        return self


class CommandStanding(Body):
    """The answer to a result. ``state`` withdrawn: it came too late and was not recorded."""

    id: str
    state: CommandState


class Command(BaseModel):
    """One command. ``id`` is the same however often it is offered."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    kind: str
    arguments: Dict[str, Any] = {}


class Commands(BaseModel):
    """All open commands of the machine, oldest first."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    commands: List[Command] = []


def arguments_of(command: Command) -> Arguments:
    """Return a command's arguments, typed. Raises Unsupported for a kind, or arguments, that this release does not
    know."""
    try:
        return ARGUMENTS[CommandKind(command.kind)].model_validate(command.arguments)
    except (ValueError, ValidationError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "the kind is unknown"
        raise Unsupported(
            f"The agent does not understand the command {command.kind!r} ({what}).",
            remedy="Upgrade it with `farshore machine upgrade`, then repeat the command.",
        ) from error


def failure(error: FarshoreError) -> CommandResult:
    """Return ``error`` as a command's result."""
    return CommandResult(failure=CommandFailure(code=error.code, message=error.message, remedy=error.remedy))
