"""Scripts that check a recovered machine from within, run by its agent.

``GET /v1/machines/self/guest-scripts`` returns the scripts granted to the one recovered machine whose hardware id it
names; ``PUT /v1/machines/self/guest-scripts/{script}/result`` reports the result. The agent asks only while its host
forwards a connection for that (farshore.model.led_out), and runs no script that names another machine or other
hardware.
"""

from __future__ import annotations

from typing import Annotated, List, Optional

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from farshore.api_types.body import Body, Label, Prose
from farshore.model.commands import CommandState

MOST_BYTES = 64 << 10
"""Maximum size of one script."""
LONGEST = 300
"""Maximum seconds of one run."""
MOST_SHOWN = 3000
"""Bytes of its output that are kept: the end."""
MOST_SCRIPTS = 1
"""Granted at once; they run one after another."""

Content = Annotated[str, StringConstraints(max_length=4 * (MOST_BYTES // 3 + 1), pattern=r"^[A-Za-z0-9+/]*={0,2}$")]
"""Bytes in base64."""


class GuestScript(BaseModel):
    """One run of one script. ``id`` identifies this run, ``failover`` is the only one it is for, ``digest`` the SHA-256
    of the script in hex, ``seconds`` its time limit."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    machine: str
    failover: str
    hardware: str
    content: Content
    digest: str
    seconds: Annotated[int, Field(ge=1, le=LONGEST)]


class GuestScripts(BaseModel):
    """The granted scripts, the oldest first."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    scripts: Annotated[List[GuestScript], Field(max_length=MOST_SCRIPTS)] = []


class GuestScriptResult(Body):
    """The result of a run, on the machine with this hardware id. ``status``: its exit status; None: it was killed, or
    did not begin, and ``output`` says why. ``output``: otherwise the end of its output."""

    hardware: Label
    status: Optional[Annotated[int, Field(ge=-255, le=255)]] = None
    output: Prose = ""


class GuestScriptStanding(Body):
    """The answer to a result. ``state`` withdrawn: it came too late and was not recorded."""

    id: str
    state: CommandState
