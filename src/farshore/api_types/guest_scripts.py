"""Scripts that check a recovered machine from within, run by its agent.

``GET /v1/machines/self/guest-scripts`` answers what is granted to the one recovered machine whose hardware id it names,
``PUT /v1/machines/self/guest-scripts/{script}/result`` what came of it. The agent asks only while its host leads it out
for that (farshore.model.led_out), and runs nothing that names another machine or other hardware.
"""

from __future__ import annotations

from typing import Annotated, List, Optional

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from farshore.api_types.body import Body, Label, Prose
from farshore.model.commands import CommandState

MOST_BYTES = 64 << 10
"""Of one script."""
LONGEST = 300
"""Seconds that one may take."""
MOST_SHOWN = 3000
"""Bytes of its output that are kept: the last."""
MOST_SCRIPTS = 1
"""Granted at once: one after another."""

Content = Annotated[str, StringConstraints(max_length=4 * (MOST_BYTES // 3 + 1), pattern=r"^[A-Za-z0-9+/]*={0,2}$")]
"""Bytes in base64."""


class GuestScript(BaseModel):
    """One run of one script. ``id`` is of this run, ``failover`` the only one it is for, ``digest`` the SHA-256 of the
    script in hex, ``seconds`` the time it has."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    machine: str
    failover: str
    hardware: str
    content: Content
    digest: str
    seconds: Annotated[int, Field(ge=1, le=LONGEST)]


class GuestScripts(BaseModel):
    """What is granted now, the oldest first."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    scripts: Annotated[List[GuestScript], Field(max_length=MOST_SCRIPTS)] = []


class GuestScriptResult(Body):
    """How a run ended, on the machine with this hardware id. ``status``: what it exited with; None: it was cut off, or
    did not begin, and ``output`` says why. ``output``: else the last of what it said."""

    hardware: Label
    status: Optional[Annotated[int, Field(ge=-255, le=255)]] = None
    output: Prose = ""


class GuestScriptStanding(Body):
    """The answer to a result. ``state`` withdrawn: it came too late and was not noted."""

    id: str
    state: CommandState
