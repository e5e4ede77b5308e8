"""Checks of a recovered machine, and the evidence that a failover keeps of their results.

Checks are chosen in advance, by machine or by policy (farshore.api_types.targets), or given with a failover.
"""

from __future__ import annotations

import enum
from typing import Annotated, List, Optional

from pydantic import Field, StringConstraints, model_validator

from farshore.api_types.body import Body, Label, Moment, Prose

Port = Annotated[int, Field(ge=1, le=65535)]
ScriptName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", max_length=63)]
UrlPath = Annotated[str, StringConstraints(pattern=r"^(/[\x21-\x7e]*)?$", max_length=200)]
MOST_CHECKS = 32
UserName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,31}$", max_length=32)]
_NEEDS_PORT = frozenset({"tcp", "http", "https", "ssh", "guest"})
_NEEDS_SCRIPT = frozenset({"script", "guest", "agent"})


class CheckKind(enum.Enum):
    """How a check examines the machine."""

    TCP = "tcp"
    """The guest accepts a connection at ``port``."""
    HTTP = "http"
    """It answers a GET at ``port`` and ``path`` with ``status`` (any below 400 by default) and ``contains``."""
    HTTPS = "https"
    """The same over TLS. The certificate is not verified: the machine is not reached by its own name."""
    SSH = "ssh"
    """An SSH server introduces itself at ``port``."""
    SCRIPT = "script"
    """``script`` of the configuration server's folder ``checks`` ends with status 0."""
    GUEST = "guest"
    """Such a ``script``, run in the guest: over SSH at ``port``, as ``user``, with the private ``key`` of that
    folder."""
    AGENT = "agent"
    """Such a ``script``, run in the guest by the recovered machine's agent: without a login, at a site of kind qemu."""
    CONSOLE = "console"
    """The console's text has ``contains``."""


class Check(Body):
    """One check. It is repeated until it passes, for at most ``within`` seconds."""

    kind: CheckKind
    port: Optional[Port] = None
    """A port of the guest."""
    path: UrlPath = ""
    status: Optional[Annotated[int, Field(ge=100, le=599)]] = None
    contains: Label = ""
    script: Optional[ScriptName] = None
    key: Optional[ScriptName] = None
    user: Optional[UserName] = None
    """Default: root."""
    within: Annotated[int, Field(ge=1, le=3600)] = 120

    @model_validator(mode="after")
    def _is_whole(self) -> Check:
        if (self.kind.value in _NEEDS_PORT) != (self.port is not None):
            raise ValueError(f"a check by {self.kind.value} {'has no' if self.port else 'needs a'} port")
        if (self.kind.value in _NEEDS_SCRIPT) != (self.script is not None):
            raise ValueError("a check by script names one, and no other does")
        if (self.kind is CheckKind.GUEST) != (self.key is not None) or (self.user and not self.key):
            raise ValueError("a check in the guest names the key to log in with, and no other does")
        if self.kind is CheckKind.CONSOLE and not self.contains:
            raise ValueError("a check of the console needs the text to look for")
        return self


Checks = Annotated[List[Check], Field(max_length=MOST_CHECKS, fail_fast=True)]


class CheckResult(Body):
    """The result of a check."""

    check: Check
    passed: bool
    seconds: float = 0
    """Time from the failover's request until it passed, or was given up."""
    tries: int = 0
    detail: Prose = ""
    """What was last seen: a status, a banner, a script's output, or the problem."""


class Verdict(enum.Enum):
    """The combined result of a failover's checks."""

    NONE = "none"
    """There were no checks, or they have not ended."""
    PASSED = "passed"
    FAILED = "failed"


class Evidence(Body):
    """The evidence of a failover. Seconds; None: not measured."""

    rpo_seconds: Optional[float] = None
    """How much of the source's latest time the chosen point lacks."""
    rpo_basis: Prose = ""
    """What ``rpo_seconds`` was measured against."""
    shutdown: Prose = ""
    """The result of shutting the source down first; empty: not requested."""
    rto_seconds: Optional[float] = None
    """From the request until every check had passed, or the first port answered if there are no checks."""
    checks: List[CheckResult] = []
    checked: Moment = 0
    diagnosis: Prose = ""
    """Why the machine did not come up, according to its console."""

    @property
    def verdict(self) -> Verdict:
        """Return the verdict: failed as soon as one check is."""
        if not self.checks:
            return Verdict.NONE
        return Verdict.PASSED if all(one.passed for one in self.checks) else Verdict.FAILED
