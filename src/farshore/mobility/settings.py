"""Settings on the protected machine itself; everything else comes from the configuration server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

from farshore.model.states import CaptureMode

STATE = Path("/var/lib/farshore-mobility")
RUNTIME = Path("/run/farshore-mobility")


@dataclass(frozen=True)
class Settings:
    """``disks`` empty: all of the machine's. Sizes in bytes; ``ring_bytes`` 0: derived from the agent's memory limit;
    ``spill_bytes`` 0: no .hrl file."""

    state: Path = STATE
    disks: Tuple[Path, ...] = ()
    ring_bytes: int = 0
    spill_bytes: int = 512 << 20
    capture: Optional[CaptureMode] = None
    """The best mode that may be used; None: the best that the machine supports."""
    round_seconds: float = 60.0
    """In bitmap mode, seconds from the beginning of a round to the beginning of the next."""
    scan_seconds: float = 3600.0
    """The same in scan mode."""

    @property
    def credentials(self) -> Path:
        """The certificate and key from enrolment."""
        return self.state / "credentials.json"

    @property
    def servers(self) -> Path:
        """The configuration servers that this machine may use."""
        return self.state / "servers.json"

    @property
    def release_key(self) -> Path:
        """The public half of the key that signs the releases which this machine may install."""
        return self.state / "release-key"

    @property
    def disk_numbers(self) -> Path:
        """The disks' numbers."""
        return self.state / "disks.json"

    @property
    def named_disks(self) -> Path:
        """The paths in ``disks`` that were disks at an earlier start."""
        return self.state / "named-disks.json"

    @property
    def lock(self) -> Path:
        """Held while the service runs: two would fence each other for ever."""
        return self.state / "lock"

    @property
    def proven(self) -> Path:
        """What of the disks was proven equal to its copy, and when."""
        return self.state / "proven.json"

    @property
    def commands(self) -> Path:
        """Which commands were begun, and their results."""
        return self.state / "commands.json"

    @property
    def handover(self) -> Path:
        """The file with the state that an agent leaves for the release that replaces it."""
        return self.state / "handover.json"

    @property
    def stopped_services(self) -> Path:
        """The services that were stopped for a shutdown that did not happen."""
        return self.state / "stopped-services.json"

    @property
    def status(self) -> Path:
        """The file that ``farshore-mobility status`` shows. In memory: on a disk it would be sent every few seconds."""
        return (RUNTIME if self.state == STATE else self.state) / "status.json"

    def spill(self, machine: str) -> Path:
        """Return the .hrl file."""
        return self.state / f"{machine}.hrl"
