"""The messages of a process server about machines on which it installs the mobility service."""

from __future__ import annotations

from typing import Annotated, Optional

from pydantic import Field

from farshore.api_types.body import Body, Label, Shown
from farshore.api_types.commands import CommandFailure

PublicKey = Annotated[str, Field(pattern="^[0-9a-f]{64}$", max_length=64)]


class PushClaim(Body):
    """``POST /v1/process-servers/self/pushes/{push}``: begin one that was announced. ``run`` identifies this start of
    the process server; ``key``: 32 bytes of an X25519 public key in hex, made for this one push."""

    run: Label
    key: PublicKey


class SealedPush(Body):
    """The answer: where and how to log in and what to install, sealed to the key of the claim, in hex
    (docs/formats/sealed-push.md). Held in memory only and never logged."""

    sealed: str


class PushProgress(Body):
    """``POST /v1/process-servers/self/pushes/{push}/progress``, every second."""

    run: Label
    fraction: float = Field(ge=0, le=1)
    detail: Shown = ""


class PushResult(Body):
    """``PUT /v1/process-servers/self/pushes/{push}/result``. ``host_key``, ``jump_key``: the fingerprints that the host
    and the jump host showed, if there is no ``failure``."""

    run: Label
    host_key: Shown = ""
    jump_key: Shown = ""
    failure: Optional[CommandFailure] = None


class PushStanding(Body):
    """The answer to both. ``wanted`` False: it was cancelled, given up or begun by a later start; end it."""

    wanted: bool


class AgentRelease(Body):
    """``GET /v1/process-servers/self/agents/{python}``: the release for machines with that Python, and the SHA-256 of
    its bundle in hex."""

    release: str
    digest: str
