"""The messages between master targets and the configuration server, and master targets as users see them."""

from __future__ import annotations

import enum
from typing import List, Optional

from pydantic import Field

from farshore.api_types.body import Body, Label, Moment, Natural, Pem, Shown, Token
from farshore.api_types.commands import CommandFailure
from farshore.api_types.failovers import SurvivingDisk
from farshore.api_types.invitations import Invitation

MOST_HELD = 1000
ID = r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$"


class MasterTargetStanding(enum.Enum):
    """The state of a master target."""

    INVITED = "invited"
    """It has not registered yet."""
    WELL = "well"
    SILENT = "silent"
    REVOKED = "revoked"


class MasterTarget(Body):
    """A master target as users see it (``GET /v1/master-targets``)."""

    id: str
    name: str
    own: bool = False
    """It is the one that ``farshore up`` runs: failbacks use it unless they name another."""
    standing: MasterTargetStanding
    version: str = ""
    last_seen: Moment = 0
    errands: int = 0
    """Its present errands."""
    keys_of: List[str] = []
    """Only for a single one: the machines whose keys it was ever given, by name, a deleted one by its id."""


class MasterTargetAddition(Body):
    """``POST /v1/master-targets``: invite another master target."""

    name: str = Field(max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    valid_seconds: int = Field(default=3600, ge=1, le=30 * 86400)


class MasterTargetInvitation(Invitation):
    """The answer: a one-time token, shown once, for ``farshore-master-target enroll`` on its host."""


class MasterTargetEnrolmentRequest(Body):
    """``POST /v1/master-targets/enrolments``: exchange the token for a certificate. ``request`` is a PEM PKCS#10
    request."""

    token: Token
    request: Pem


class MasterTargetEnrolment(Body):
    """The certificate names it in its URI SAN ``farshore://master-target/<id>``, and no host. PEM texts."""

    master_target: str
    certificate: str
    authority: str


class MasterTargetRegistration(Body):
    """``POST /v1/master-targets/self``, at each start."""

    version: Label


class MasterTargetSettings(Body):
    """The answer. ``upkeep_key``: 32 bytes in hex, held in memory only and never logged; it opens no machine's data."""

    vault_url: str
    upkeep_key: str


class MasterTargetReport(Body):
    """``POST /v1/master-targets/self/report``, every other second. ``host`` identifies the running system it is on;
    ``holds``: the failbacks of which it has a record."""

    version: Label
    host: Label = ""
    holds: List[Label] = Field(default=[], max_length=MOST_HELD)


class MasterTargetOrders(Body):
    """The answer. ``errands``: to begin or to continue, by id; ``forget``: failbacks whose records nobody needs."""

    errands: List[str] = []
    forget: List[str] = []


class ErrandClaim(Body):
    """``POST /v1/master-targets/self/errands/{errand}``: begin one that was announced. ``run`` identifies this start of
    the master target."""

    run: Label


class PlacedDisk(SurvivingDisk):
    """A disk by its number. ``path`` is on the master target's host."""

    disk: int = Field(ge=0, le=65534)


class HomeErrand(Body):
    """The answer: how far (farshore.model.home_task.Errand) to bring which disks of which machine. ``position``,
    EPOCH:SEQUENCE, is where they become complete."""

    errand: str
    failover: str = Field(pattern=ID)
    """The name of a folder of the master target."""
    machine: str = Field(pattern=ID)
    places: List[PlacedDisk]
    position: str = ""


class ErrandProgress(Body):
    """``POST /v1/master-targets/self/errands/{errand}/progress``, every second."""

    run: Label
    fraction: float = Field(ge=0, le=1)
    detail: Shown = ""


class ErrandResult(Body):
    """``PUT /v1/master-targets/self/errands/{errand}/result``: bytes that were read and hashed, and bytes written to
    the disks; or the error."""

    run: Label
    compared: Natural = 0
    written: Natural = 0
    failure: Optional[CommandFailure] = None


class ErrandStanding(Body):
    """The answer to both. ``wanted`` False: it was cancelled, or begun by a later start; end it."""

    wanted: bool
