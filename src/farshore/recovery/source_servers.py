"""What a failover needs from the VMware server at which its source runs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Protocol

from farshore.model.errors import NotFound


class SourceServer(Protocol):
    """farshore.vsphere.sources.VmwareSources: a VMware server in one session. Machines are named by their ids there.
    Its methods raise TryLater, Forbidden, NotFound, Refused."""

    def missing(self) -> Collection[str]:
        """Return the privileges that the account lacks for these actions."""

    def is_off(self, machine: str) -> bool:
        """Return whether the machine is powered off."""

    def shut_down(self, machine: str) -> str:
        """Ask the machine's tools to shut the guest down. Return why they cannot be asked, or "" if they were."""

    def power_off(self, machine: str) -> None:
        """Power the machine off."""

    def mark(self, machine: str, text: str) -> None:
        """Put a text on the machine that says why it is kept off; an empty text removes it."""


SourceServers = Callable[[str], AbstractContextManager[SourceServer]]
"""Opens a VMware server by its name. Raises NotFound, Unsupported without its library, Unreachable, Forbidden."""


def no_servers(name: str) -> AbstractContextManager[SourceServer]:
    """Raise NotFound, for an installation without VMware servers."""
    raise NotFound(f"There is no VMware server {name!r}.", remedy="See `farshore vmware list`.")
