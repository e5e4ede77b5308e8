"""What a failover asks of the VMware server at which its source runs: to shut it down, and to keep it marked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from farshore.vsphere import power
from farshore.vsphere.session import Login, Session, session


@dataclass(frozen=True)
class VmwareSources:
    """A farshore.recovery.source_servers.SourceServer, as long as its session lasts."""

    opened: Session

    def missing(self) -> list[str]:
        """Which privileges the account lacks for it."""
        return self.opened.missing(power.POWER)

    def is_off(self, machine: str) -> bool:
        """Whether it is powered off."""
        return power.is_off(self.opened, machine)

    def shut_down(self, machine: str) -> str:
        """Ask its tools; why they cannot be asked, empty if they were."""
        return power.shut_down_guest(self.opened, machine)

    def power_off(self, machine: str) -> None:
        """Cut it off."""
        power.power_off(self.opened, machine)

    def mark(self, machine: str, text: str) -> None:
        """Say on it why it is kept off; empty: not any more."""
        power.mark(self.opened, machine, text)


@contextmanager
def sources_at(login: Login) -> Iterator[VmwareSources]:
    """Those of one server. Raises as farshore.vsphere.session.session."""
    with session(login) as opened:
        yield VmwareSources(opened)
