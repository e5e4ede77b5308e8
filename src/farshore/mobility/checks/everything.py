"""Run all checks, in the order of importance: what prevents protection first."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, List, Optional, Sequence, Tuple

from farshore.api_types.machines import Finding
from farshore.mobility.capture.disks import Disk
from farshore.mobility.capture.probe import Ability, probe
from farshore.mobility.checks.disks import check_disks, check_named
from farshore.mobility.checks.elsewhere import check_elsewhere
from farshore.mobility.checks.findings import warning
from farshore.mobility.checks.kernel import check_clock, check_kernel, check_process
from farshore.mobility.checks.layers import check_file_systems, check_layers, check_swap
from farshore.mobility.checks.room import check_memory, check_reach, check_state
from farshore.mobility.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """What the checks need. ``servers``: URLs that must be reachable; ``ability``: the result of ``probe``, if it
    ran."""

    settings: Settings
    disks: Sequence[Disk]
    servers: Sequence[str] = ()
    spill: Optional[Path] = None
    ability: Optional[Ability] = None


def look_around(here: Surroundings) -> List[Finding]:
    """Return every finding. A check that fails is a finding too, and does not stop the others."""
    settings = here.settings
    devices = frozenset(disk.device for disk in here.disks)
    ability = here.ability or probe()
    checks: Tuple[Tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        ("privileges", check_process),
        ("servers", lambda: check_reach(here.servers)),
        ("capture mode", lambda: check_kernel(ability, settings)),
        ("named disks", lambda: check_named(settings.disks)),
        ("disks", lambda: check_disks(here.disks)),
        ("layers", lambda: check_layers(devices)),
        ("file systems", lambda: check_file_systems(devices)),
        ("a start elsewhere", lambda: check_elsewhere(devices)),
        ("swap", check_swap),
        ("memory", lambda: check_memory(settings)),
        ("state directory", lambda: check_state(settings, devices, here.spill)),
        ("clock", check_clock),
    )
    found: List[Finding] = []
    for subject, check in checks:
        try:
            found.extend(check())
        except Exception as problem:  # an unknown kind of machine: the other checks still run
            log.exception("The check of %s failed.", subject)
            found.append(warning(subject, f"The check failed ({problem}).", "Read the agent's log, and report this."))
    return found
