"""Recovery sites."""

from __future__ import annotations

from typing import Annotated, Dict, List, Union

from pydantic import Field, SecretStr, StringConstraints

from farshore.api_types.body import LARGEST, Body, Label, Moment, Secret
from farshore.api_types.targets import Obstacle, SiteCapacity, SiteDemand

SiteId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", max_length=32)]
"""What people call it: lower-case letters, digits and hyphens."""
Setting = Union[
    bool, Annotated[int, Field(ge=-LARGEST, le=LARGEST)], Annotated[float, Field(ge=-LARGEST, le=LARGEST)], Label
]


class SiteRequest(Body):
    """``POST /v1/sites``. Which settings there are depends on the kind."""

    id: SiteId
    kind: Label
    settings: Dict[Label, Setting] = Field(default={}, max_length=64)
    secret: Secret = Field(default=SecretStr(""), max_length=16384)
    """What the site's provider asks for; sealed, and never answered."""


class Site(Body):
    """A place where machines are brought up."""

    id: str
    kind: str
    settings: Dict[str, Setting] = {}
    has_secret: bool = False
    created: Moment = 0
    failovers: int = 0
    """How many are there now."""
    lost: Moment = 0
    """When it was declared lost; 0: it is not."""


class SiteFinding(Body):
    """One thing that a site needs of its provider. ``remedy``: what to do, if anything."""

    subject: str
    found: str
    remedy: str = ""
    missing: bool = False
    """No machine comes up without it."""


class SiteInspection(Body):
    """All that a site needs, and a file that has its provider make it."""

    findings: List[SiteFinding]
    template: str = ""


class SiteCheck(Body):
    """What a site says about itself, by name."""

    found: Dict[str, str]
    capacity: SiteCapacity = SiteCapacity()
    demand: SiteDemand = SiteDemand()
    """Of all protected machines whose target it is, or of the one that was asked for."""
    obstacles: List[Obstacle] = []
    """What would stand in the way if they all came up now."""
