"""The port between the push job and whoever installs a mobility service on a machine, by SSH or by guest operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Reporter = Callable[[float, str], None]
"""Told how far the installation is: 0…1, and what is being done."""


@dataclass(frozen=True)
class JumpHost:
    """A host in between, which the same user name or ``user`` enters by the same key or password.
    ``host_key_fingerprint`` as for the target; ``seen`` hears which key it showed."""

    host: str
    port: int
    user: str
    host_key_fingerprint: str = ""
    seen: Callable[[str], None] = field(default=lambda _fingerprint: None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class SshTarget:
    """A machine to log in to. ``host_key_fingerprint`` (``SHA256:…``) pins the host; empty trusts the first contact."""

    host: str
    port: int
    user: str
    private_key: str = field(repr=False)
    """Empty: the user logs in by password, or by an agent."""
    host_key_fingerprint: str
    agent: str = ""
    """Path of an SSH agent's socket, whose keys are tried."""
    password: str = field(default="", repr=False)
    jump: JumpHost | None = None


@dataclass(frozen=True)
class GuestPlace:
    """A machine at a VMware server that is followed: the server's name, and the machine's id there."""

    server: str
    machine: str


@dataclass(frozen=True, kw_only=True)
class PushTarget(SshTarget):
    """A machine to bring in. ``server_url`` is where it reaches the configuration server, ``disks`` device paths
    (empty: all)."""

    token: str = field(repr=False)
    server_url: str
    authority_fingerprint: str
    release_key: str
    """Public half, in hex: SSH brings it to machines that enrolled before there was one."""
    disks: tuple[str, ...] = ()
    guest: GuestPlace | None = None
    """It is reached by guest operations of its VMware server, not by SSH; ``host`` is its name then."""


Installer = Callable[[PushTarget, Reporter], str]
"""Install, enrol, start; return the fingerprint of the host's key. Repeating it on the same host ends the same way;
a machine that is enrolled already keeps its identity and leaves the token unused."""


@dataclass(frozen=True)
class TakenOff:
    """``fingerprint`` of the host's key; ``stays``: places that are still there, each with what is in them."""

    fingerprint: str
    stays: tuple[str, ...]


Remover = Callable[[SshTarget, str, Reporter], TakenOff]
"""Take the agent of the machine with that id off the host. Raises Refused where another machine's agent is there."""
