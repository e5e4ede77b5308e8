"""What a failover asks of the VMware server at which its source runs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Protocol

from farshore.model.errors import NotFound


class SourceServer(Protocol):
    """farshore.vsphere.sources.VmwareSources: a VMware server in one session. Machines are named by their ids there.
    Its methods raise TryLater, Forbidden, NotFound, Refused."""

    def missing(self) -> Collection[str]:
        """Which privileges the account lacks for what is asked here."""

    def is_off(self, machine: str) -> bool:
        """Whether it is powered off."""

    def shut_down(self, machine: str) -> str:
        """Ask its tools to shut the guest down; why they cannot be asked, empty if they were."""

    def power_off(self, machine: str) -> None:
        """Cut it off."""

    def mark(self, machine: str, text: str) -> None:
        """Say on it why it is kept off; empty: not any more."""


SourceServers = Callable[[str], AbstractContextManager[SourceServer]]
"""Opens a VMware server by its name. Raises NotFound, Unsupported without its library, Unreachable, Forbidden."""


def no_servers(name: str) -> AbstractContextManager[SourceServer]:
    """For who has none."""
    raise NotFound(f"There is no VMware server {name!r}.", remedy="See `farshore vmware list`.")
