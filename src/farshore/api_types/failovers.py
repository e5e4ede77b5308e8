"""Failover and test failover."""

from __future__ import annotations

import enum
from typing import Annotated, Dict, List

from pydantic import Field

from farshore.api_types.body import Body, Label
from farshore.api_types.jobs import OnFailure
from farshore.api_types.points import PointChoice

Port = Annotated[int, Field(ge=1, le=65535)]


class FailoverKind(enum.Enum):
    """A test runs beside production on an isolated network and is cleaned up."""

    TEST = "test"
    FAILOVER = "failover"


class FailoverRequest(Body):
    """``POST /v1/machines/{machine}/failovers``; answered with a Job. ``forward`` maps host ports to guest ports."""

    kind: FailoverKind
    point: PointChoice = PointChoice(latest=True)
    site: Label = "qemu"
    forward: Dict[Port, Port] = Field(default={}, max_length=256)


class FailoverMember(Body):
    """One machine of several; ``forward`` as in FailoverRequest."""

    machine: Label
    forward: Dict[Port, Port] = Field(default={}, max_length=256)


class SeveralFailovers(Body):
    """``POST /v1/failovers``: several machines, begun in this order, ``at_once`` at the same time; answered with a Job
    whose children are their failovers. Each machine has its own points: ``point`` may not be an id or a position."""

    kind: FailoverKind
    members: List[FailoverMember] = Field(min_length=1, max_length=100)
    point: PointChoice = PointChoice(latest=True)
    site: Label = "qemu"
    at_once: int = Field(default=4, ge=1, le=16)
    on_failure: OnFailure = OnFailure.GO_ON


class Failover(Body):
    """One recovered machine at a recovery site."""

    id: str
    machine: str
    kind: FailoverKind
    point_epoch: int
    point_sequence: int
    point_time: int
    proof: str = ""
    """What was known of the point's equality with the machine when it was chosen."""
    site: str
    direction: str = "away"
    """``away``: to ``site``; ``home``: to ``site``, which is where the machine belongs."""
    state: str
    forward: Dict[int, int] = {}
    address: str = ""
    checked: str = ""
    """What of the machine was seen working before it counted as running."""
    condition: str = ""
    """How its machine is, as of the last look: running, paused, stopped, shut-down (by itself), absent; empty: there is
    none. ``condition_since``: ns since 1970 UTC."""
    condition_since: int = 0
    stopped: bool = False
    """Somebody stopped it, so that it is not to run."""
    requested: int
    running: int = 0
    message: str = ""
    """What went wrong, where ``state`` is failed."""
    job: str = ""
    parent: str = ""
    """The job of several failovers that this one is part of."""


class Console(Body):
    """The newest of what a recovered machine said on its console; ``size``: bytes that are kept of it in all."""

    text: str
    size: int
