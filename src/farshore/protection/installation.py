"""The port between the push job and whoever installs a mobility service on a machine."""

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


@dataclass(frozen=True)
class PushTarget:
    """A machine to bring in. ``host_key_fingerprint`` (``SHA256:…``) pins the host; empty trusts the first contact.

    ``server_url`` is where the machine reaches the configuration server, ``disks`` device paths (empty: all).
    """

    host: str
    port: int
    user: str
    private_key: str = field(repr=False)
    """Empty: the user logs in by password."""
    host_key_fingerprint: str
    token: str = field(repr=False)
    server_url: str
    authority_fingerprint: str
    release_key: str
    """Public half, in hex: SSH brings it to machines that enrolled before there was one."""
    disks: tuple[str, ...] = ()
    password: str = field(default="", repr=False)
    jump: JumpHost | None = None


Installer = Callable[[PushTarget, Reporter], str]
"""Install, enrol, start; answer the fingerprint of the host's key. Repeating it on the same host ends the same way;
a machine that is enrolled already keeps its identity and leaves the token unused."""
