"""What a failover needs from the VMware server at which its source runs: to shut it down, and to keep it marked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from farshore.vsphere import power
from farshore.vsphere.session import Login, Session, session


@dataclass(frozen=True)
class VmwareSources:
    """A farshore.recovery.source_servers.SourceServer, valid while its session lasts."""

    opened: Session

    def missing(self) -> list[str]:
        """Return the privileges that the account lacks for this."""
        return self.opened.missing(power.POWER)

    def is_off(self, machine: str) -> bool:
        """Return whether the machine is powered off."""
        return power.is_off(self.opened, machine)

    def shut_down(self, machine: str) -> str:
        """Ask the machine's tools to shut it down. Return why they cannot be asked, or "" if they were."""
        return power.shut_down_guest(self.opened, machine)

    def power_off(self, machine: str) -> None:
        """Power the machine off."""
        power.power_off(self.opened, machine)

    def mark(self, machine: str, text: str) -> None:
        """Put a text on the machine that says why it is kept off; an empty text removes it."""
        power.mark(self.opened, machine, text)


@contextmanager
def sources_at(login: Login) -> Iterator[VmwareSources]:
    """Yield the sources of one server. Raises as farshore.vsphere.session.session."""
    with session(login) as opened:
        yield VmwareSources(opened)
