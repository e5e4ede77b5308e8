"""Failover and test failover."""

from __future__ import annotations

import enum
from typing import Annotated, Dict, List, Optional

from pydantic import Field, StringConstraints

from farshore.api_types.body import Body, Label, Moment
from farshore.api_types.checks import Checks, Evidence, Verdict
from farshore.api_types.jobs import OnFailure
from farshore.api_types.points import PointChoice
from farshore.api_types.targets import Forwards, Target

DiskId = Annotated[int, Field(ge=0, le=65534)]
TestNetwork = Annotated[str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9-]{0,31})?$", max_length=32)]


class FailoverKind(enum.Enum):
    """A test runs beside production on an isolated network and is cleaned up."""

    TEST = "test"
    FAILOVER = "failover"


class SurvivingDisk(Body):
    """A disk at home that a failback will write, in the state in which the machine left it or a later one. ``path`` is
    on the master target's host; the site at home, on the configuration server's host, has the same disk there."""

    path: str = Field(max_length=4096, pattern=r"^/[^\x00-\x1f\x7f-\x9f]*$")
    image: str = Field(default="", max_length=5, pattern=r"^(qcow2)?$")
    """Empty: a raw file or a block device."""


class Shutdown(enum.Enum):
    """Whether the source is shut down first, by its agent, so that nothing is lost."""

    NO = "no"
    TRY = "try"
    """If it cannot be shut down in time, the failover continues without."""
    REQUIRE = "require"
    """If it cannot, the failover fails, and the source continues."""


Patience = Annotated[int, Field(ge=10, le=3600)]


class FailoverRequest(Body):
    """``POST /v1/machines/{machine}/failovers``; answered with a Job. ``forward`` maps host ports to guest ports.

    Defaults come from the machine's target (farshore.api_types.targets)."""

    kind: FailoverKind
    point: PointChoice = PointChoice(latest=True)
    site: Label = ""
    """Empty: the target's."""
    forward: Optional[Forwards] = None
    """None: the target's."""
    checks: Optional[Checks] = None
    """None: the target's."""
    network: TestNetwork = ""
    """For a test: the isolated network of the site that it shares with other tests which name it; empty: none."""
    migrate: bool = False
    """One way: the commit ends the machine's protection and removes its agent. Not for a test or a failback."""
    disks: Dict[DiskId, SurvivingDisk] = Field(default={}, max_length=256)
    """For a failback: by disk, where it survived. Only differences are then fetched. Empty: all disks are written
    completely."""
    master_target: Label = ""
    """For a failback with ``disks``: the master target (name or id) that writes them. Empty: the installation's own."""
    shutdown: Shutdown = Shutdown.NO
    """For a failover of a machine that runs where it was enrolled."""
    shutdown_within: Patience = 180
    """Seconds that its source may take, including its last writes."""
    shutdown_vmware: bool = False
    """If its agent does not shut it down, its VMware server does, by VMware tools and within the same time; with
    ``require`` it is then powered off. If the agent did, the server checks that it is off, and marks it."""


class FailoverMember(Body):
    """One machine of several; ``forward`` and ``checks`` as in FailoverRequest."""

    machine: Label
    forward: Optional[Forwards] = None
    checks: Optional[Checks] = None


class SeveralFailovers(Body):
    """``POST /v1/failovers``: several machines, started in this order, ``at_once`` at the same time; answered with a
    Job whose children are their failovers. Each machine has its own points, so ``point`` may not be an id or a
    position."""

    kind: FailoverKind
    members: List[FailoverMember] = Field(min_length=1, max_length=100)
    point: PointChoice = PointChoice(latest=True)
    site: Label = ""
    """Empty: for each machine the one in its target."""
    network: TestNetwork = ""
    """For each, as in FailoverRequest."""
    migrate: bool = False
    """For each, as in FailoverRequest."""
    shutdown: Shutdown = Shutdown.NO
    shutdown_within: Patience = 180
    shutdown_vmware: bool = False
    at_once: int = Field(default=4, ge=1, le=16)
    on_failure: OnFailure = OnFailure.GO_ON

    def request_of(self, member: FailoverMember) -> FailoverRequest:
        """Return the request for one of the members."""
        return FailoverRequest(
            kind=self.kind,
            point=self.point,
            site=self.site,
            forward=member.forward,
            checks=member.checks,
            network=self.network,
            migrate=self.migrate,
            shutdown=self.shutdown,
            shutdown_within=self.shutdown_within,
            shutdown_vmware=self.shutdown_vmware,
        )


class GuestPreparation(Body):
    """What was done in the copy of a guest before it started."""

    outcome: str = ""
    """``prepared``; ``undone`` (an earlier preparation was reverted); ``failed``: it starts unchanged; empty: nothing
    had to be done."""
    system: str = ""
    """The guest's name of its system."""
    changes: List[str] = []
    """Each changed file, and why."""
    warnings: List[str] = []


class Failover(Body):
    """One recovered machine at a recovery site."""

    id: str
    machine: str
    kind: FailoverKind
    point_epoch: int
    point_sequence: int
    point_time: Moment
    proof: str = ""
    """What was known when the point was chosen about whether it equals the machine."""
    site: str
    direction: str = "away"
    """``away``: to ``site``; ``home``: to ``site``, which is where the machine belongs."""
    migrate: bool = False
    """One way: as in FailoverRequest."""
    state: str
    forward: Dict[int, int] = {}
    target: Target = Target()
    """The hardware that it was built with: the machine's target when the failover was requested."""
    address: str = ""
    checked: str = ""
    """What was seen working before the machine counted as running."""
    preparation: GuestPreparation = GuestPreparation()
    condition: str = ""
    """The machine's state at the last look: running, paused, stopped, shut-down (by itself), absent; empty: there is
    none. ``condition_since``: ns since 1970 UTC."""
    condition_since: Moment = 0
    stopped: bool = False
    """A user stopped it, so it should not run."""
    requested: Moment
    running: Moment = 0
    message: str = ""
    """The error, if ``state`` is failed."""
    job: str = ""
    parent: str = ""
    """The job of several failovers that includes this one."""
    downtime_seconds: Optional[float] = None
    """Seconds from the moment when the earlier instance was being stopped until this one ran; None: nothing was
    stopped, or not yet."""
    evidence: Evidence = Evidence()
    verdict: Verdict = Verdict.NONE
    """The combined result of the checks in ``evidence``."""


class Incident(Body):
    """An event of a failover: when (ns since 1970 UTC), and what happened."""

    time: Moment
    kind: str
    severity: str
    message: str


class FailoverReport(Body):
    """``GET /v1/failovers/{failover}/report``: everything that is kept of a failover."""

    failover: Failover
    machine: str
    """The machine's name."""
    written: Moment
    events: List[Incident] = []
    """Oldest first."""
    console: str = ""
    """The newest part of the console's text."""
    screenshot: str = ""
    """A screenshot from the end of the checks, or before the machine was removed: a PNG image in Base64; empty:
    none."""


class Console(Body):
    """The newest console output of a recovered machine; ``size``: bytes that are kept of it in all."""

    text: str
    size: int
