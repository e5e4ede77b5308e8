"""What can be set on the protected machine itself; everything else is said by the configuration server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

from farshore.model.states import CaptureMode

STATE = Path("/var/lib/farshore-mobility")
RUNTIME = Path("/run/farshore-mobility")


@dataclass(frozen=True)
class Settings:
    """``disks`` empty: all of the machine's. Sizes in bytes; ``ring_bytes`` 0: by the memory that the agent may use;
    ``spill_bytes`` 0: no .hrl file."""

    state: Path = STATE
    disks: Tuple[Path, ...] = ()
    ring_bytes: int = 0
    spill_bytes: int = 512 << 20
    capture: Optional[CaptureMode] = None
    """No better mode than this one; None: the best that the machine can do."""
    round_seconds: float = 60.0
    """In bitmap mode, from the beginning of a round to the beginning of the next."""
    scan_seconds: float = 3600.0
    """The same in scan mode."""

    @property
    def credentials(self) -> Path:
        """The certificate and key that enrolment brought."""
        return self.state / "credentials.json"

    @property
    def servers(self) -> Path:
        """The configuration servers that this machine may turn to."""
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
        """The paths of ``disks`` that were disks at an earlier start."""
        return self.state / "named-disks.json"

    @property
    def lock(self) -> Path:
        """Held while the service runs: two would fence each other without end."""
        return self.state / "lock"

    @property
    def proven(self) -> Path:
        """What of the disks was proven equal to its copy, and when."""
        return self.state / "proven.json"

    @property
    def commands(self) -> Path:
        """Which commands were begun, and what came of them."""
        return self.state / "commands.json"

    @property
    def handover(self) -> Path:
        """What an agent leaves to the release that takes its place."""
        return self.state / "handover.json"

    @property
    def stopped_services(self) -> Path:
        """The services that were stopped for a shutdown which has not come about."""
        return self.state / "stopped-services.json"

    @property
    def status(self) -> Path:
        """What ``farshore-mobility status`` shows. In memory: on a disk it would be shipped every few seconds."""
        return (RUNTIME if self.state == STATE else self.state) / "status.json"

    def spill(self, machine: str) -> Path:
        """Return the .hrl file."""
        return self.state / f"{machine}.hrl"
