"""Recovery sites."""

from __future__ import annotations

from typing import Annotated, Dict, List, Union

from pydantic import Field, SecretStr, StringConstraints

from farshore.api_types.body import LARGEST, Body, Label, Moment, Secret
from farshore.api_types.targets import Obstacle, SiteCapacity, SiteDemand

SiteId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", max_length=32)]
"""The name that people use: lower-case letters, digits and hyphens."""
Setting = Union[
    bool, Annotated[int, Field(ge=-LARGEST, le=LARGEST)], Annotated[float, Field(ge=-LARGEST, le=LARGEST)], Label
]


class SiteRequest(Body):
    """``POST /v1/sites``. The settings depend on the kind."""

    id: SiteId
    kind: Label
    settings: Dict[Label, Setting] = Field(default={}, max_length=64)
    secret: Secret = Field(default=SecretStr(""), max_length=16384)
    """The provider's secret; sealed, and never returned."""


class Site(Body):
    """A place where machines are brought up."""

    id: str
    kind: str
    settings: Dict[str, Setting] = {}
    has_secret: bool = False
    created: Moment = 0
    failovers: int = 0
    """Number of failovers there now."""
    lost: Moment = 0
    """When it was declared lost; 0: it is not."""


class SiteFinding(Body):
    """One thing that a site needs from its provider. ``remedy``: what to do, if anything."""

    subject: str
    found: str
    remedy: str = ""
    missing: bool = False
    """Without it no machine can run."""


class SiteInspection(Body):
    """Everything that a site needs, and a file with which its provider creates it."""

    findings: List[SiteFinding]
    template: str = ""


class SiteCheck(Body):
    """What a site reports about itself, by name."""

    found: Dict[str, str]
    capacity: SiteCapacity = SiteCapacity()
    demand: SiteDemand = SiteDemand()
    """For all protected machines whose target it is, or for the requested one."""
    obstacles: List[Obstacle] = []
    """What would prevent that all of them come up now."""
