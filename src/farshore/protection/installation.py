"""The port between the push job and the installers of the mobility service, by SSH or by guest operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Reporter = Callable[[float, str], None]
"""Receives the progress, 0…1, and a text."""


@dataclass(frozen=True)
class JumpHost:
    """A host in between. ``user``, or the same user name, logs in there with the same key or password.
    ``host_key_fingerprint`` as for the target; ``seen`` receives the key that the host showed."""

    host: str
    port: int
    user: str
    host_key_fingerprint: str = ""
    seen: Callable[[str], None] = field(default=lambda _fingerprint: None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class SshTarget:
    """A machine to log in to. ``host_key_fingerprint`` (``SHA256:…``) pins the host's key; if empty, the key of first
    contact is trusted."""

    host: str
    port: int
    user: str
    private_key: str = field(repr=False)
    """Empty: the user logs in with a password, or with an SSH agent."""
    host_key_fingerprint: str
    agent: str = ""
    """Path of an SSH agent's socket, whose keys are tried."""
    password: str = field(default="", repr=False)
    jump: JumpHost | None = None


@dataclass(frozen=True)
class GuestPlace:
    """A machine at a followed VMware server: the server's name, and the machine's id there."""

    server: str
    machine: str


@dataclass(frozen=True, kw_only=True)
class PushTarget(SshTarget):
    """A machine to install on. ``server_url`` is the address at which it reaches the configuration server, ``disks``
    are device paths (empty: all)."""

    token: str = field(repr=False)
    server_url: str
    authority_fingerprint: str
    release_key: str
    """Public half, in hex: SSH brings it to machines that enrolled before there was a release key."""
    disks: tuple[str, ...] = ()
    guest: GuestPlace | None = None
    """If set, the machine is reached by guest operations of its VMware server, not by SSH; ``host`` is then its
    name."""


Installer = Callable[[PushTarget, Reporter], str]
"""Install, enrol, start; return the fingerprint of the host's key. Repeating it on the same host has the same result; a
machine that is already enrolled keeps its identity and leaves the token unused."""


@dataclass(frozen=True)
class TakenOff:
    """``fingerprint`` of the host's key; ``stays``: remaining places, each with its content."""

    fingerprint: str
    stays: tuple[str, ...]


Remover = Callable[[SshTarget, str, Reporter], TakenOff]
"""Remove the agent of the machine with that id from the host. Raises Refused for the agent of another machine."""
