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
    """A disk at home that a failback is to write to, as it was when the machine left or any later state of it. ``path``
    is on the master target's host; the site at home, on the configuration server's, has the same disk there."""

    path: str = Field(max_length=4096, pattern=r"^/[^\x00-\x1f\x7f-\x9f]*$")
    image: str = Field(default="", max_length=5, pattern=r"^(qcow2)?$")
    """Empty: a raw file or a block device."""


class Shutdown(enum.Enum):
    """Whether the source is shut down first, by its agent, so that nothing is lost."""

    NO = "no"
    TRY = "try"
    """Where it cannot be shut down in time, the failover goes on without."""
    REQUIRE = "require"
    """Where it cannot be, the failover fails, and the source goes on."""


Patience = Annotated[int, Field(ge=10, le=3600)]


class FailoverRequest(Body):
    """``POST /v1/machines/{machine}/failovers``; answered with a Job. ``forward`` maps host ports to guest ports.

    What is not given is as the machine's target says (farshore.api_types.targets)."""

    kind: FailoverKind
    point: PointChoice = PointChoice(latest=True)
    site: Label = ""
    """Empty: the target's."""
    forward: Optional[Forwards] = None
    """None: the target's."""
    checks: Optional[Checks] = None
    """None: the target's."""
    network: TestNetwork = ""
    """Of a test: the isolated network of the site that it shares with the other tests which name it; empty: it is by
    itself."""
    migrate: bool = False
    """One way: the commit ends the machine's protection and takes its agent off. Not of a test, nor of a failback."""
    disks: Dict[DiskId, SurvivingDisk] = Field(default={}, max_length=256)
    """Of a failback: by disk, where it survived. Only what differs is fetched then. Empty: all are written anew."""
    master_target: Label = ""
    """Of a failback with ``disks``: which master target (name or id) writes them. Empty: the installation's own."""
    shutdown: Shutdown = Shutdown.NO
    """Of a failover of a machine that runs where it was enrolled."""
    shutdown_within: Patience = 180
    """Seconds that its source has for it, its last writes included."""
    shutdown_vmware: bool = False
    """Where its agent does not shut it down, the VMware server that has it does, by VMware tools and in as much time;
    to ``require`` it is to have it cut off then. Also where its agent did, it is seen to be off, and marked there."""


class FailoverMember(Body):
    """One machine of several; ``forward`` and ``checks`` as in FailoverRequest."""

    machine: Label
    forward: Optional[Forwards] = None
    checks: Optional[Checks] = None


class SeveralFailovers(Body):
    """``POST /v1/failovers``: several machines, begun in this order, ``at_once`` at the same time; answered with a Job
    whose children are their failovers. Each machine has its own points: ``point`` may not be an id or a position."""

    kind: FailoverKind
    members: List[FailoverMember] = Field(min_length=1, max_length=100)
    point: PointChoice = PointChoice(latest=True)
    site: Label = ""
    """Empty: of each machine the one that its target says."""
    network: TestNetwork = ""
    """Of each, as in FailoverRequest."""
    migrate: bool = False
    """Of each, as in FailoverRequest."""
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
    """``prepared``; ``undone`` (what an earlier preparation did was taken back); ``failed``: it starts as it is; empty:
    nothing had to be done."""
    system: str = ""
    """What the guest calls itself."""
    changes: List[str] = []
    """Each file that is another one now, and why."""
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
    """What was known of the point's equality with the machine when it was chosen."""
    site: str
    direction: str = "away"
    """``away``: to ``site``; ``home``: to ``site``, which is where the machine belongs."""
    migrate: bool = False
    """One way: as in FailoverRequest."""
    state: str
    forward: Dict[int, int] = {}
    target: Target = Target()
    """As what it was built: the machine's target when the failover was asked for."""
    address: str = ""
    checked: str = ""
    """What of the machine was seen working before it counted as running."""
    preparation: GuestPreparation = GuestPreparation()
    condition: str = ""
    """How its machine is, as of the last look: running, paused, stopped, shut-down (by itself), absent; empty: there is
    none. ``condition_since``: ns since 1970 UTC."""
    condition_since: Moment = 0
    stopped: bool = False
    """Somebody stopped it, so that it is not to run."""
    requested: Moment
    running: Moment = 0
    message: str = ""
    """What went wrong, where ``state`` is failed."""
    job: str = ""
    parent: str = ""
    """The job of several failovers that this one is part of."""
    downtime_seconds: Optional[float] = None
    """From the moment at which what ran before was being stopped until this one ran; None: nothing was, or not yet."""
    evidence: Evidence = Evidence()
    verdict: Verdict = Verdict.NONE
    """What the checks in ``evidence`` say in sum."""


class Incident(Body):
    """An event of a failover: when (ns since 1970 UTC), and what happened."""

    time: Moment
    kind: str
    severity: str
    message: str


class FailoverReport(Body):
    """``GET /v1/failovers/{failover}/report``: all that is kept of a failover, to be filed."""

    failover: Failover
    machine: str
    """Its name."""
    written: Moment
    events: List[Incident] = []
    """Oldest first."""
    console: str = ""
    """The newest part of the console's text."""
    screenshot: str = ""
    """The screen when the checks ended, or before the machine was removed: a PNG image in Base64; empty: none."""


class Console(Body):
    """The newest of what a recovered machine said on its console; ``size``: bytes that are kept of it in all."""

    text: str
    size: int
