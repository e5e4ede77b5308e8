"""Find out what this kernel allows: data mode, only the bitmap, or only scanning; and why not better.

The test is to load the capture program without attaching it. The result lists each obstacle with its remedy, for
``farshore machine check``.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

from farshore.mobility.capture.kernel import has_grace_period
from farshore.mobility.capture.libbpf import Library
from farshore.mobility.capture.program import BITMAP_OBJECT, OBJECT, Program
from farshore.model.errors import FarshoreError
from farshore.model.states import CaptureMode

BTF = Path("/sys/kernel/btf/vmlinux")
LOCKDOWN = Path("/sys/kernel/security/lockdown")
_SMALL_RING = 1 << 16
_SMALL_SLOT = 1 << 9


@dataclass(frozen=True)
class Obstacle:
    """Why something better is not possible, and what to do about it."""

    reason: str
    remedy: str


@dataclass(frozen=True)
class Ability:
    """The best mode that this machine allows."""

    mode: CaptureMode
    obstacles: Tuple[Obstacle, ...] = ()


def probe() -> Ability:
    """Test the kernel. Needs root for a true answer; without it the answer is SCAN and says so."""
    obstacles = _plain_obstacles()
    if obstacles:
        return Ability(CaptureMode.SCAN, tuple(obstacles))
    obstacle = _loading_obstacle()
    if obstacle is not None:
        worse = _refusal(BITMAP_OBJECT)
        if worse is None:
            return Ability(CaptureMode.BITMAP, (obstacle,))
        return Ability(CaptureMode.SCAN, (obstacle,) if worse == obstacle else (obstacle, worse))
    if platform.machine() != "x86_64":
        return Ability(
            CaptureMode.BITMAP,
            (
                Obstacle(
                    f"Data mode is proven on x86_64 only, not on {platform.machine()}.",
                    "Nothing to do: bitmap mode protects this machine with points further apart.",
                ),
            ),
        )
    return Ability(CaptureMode.DATA)


def _plain_obstacles() -> List[Obstacle]:
    found = []
    if os.geteuid() != 0:
        found.append(Obstacle("Not running as root.", "Run the mobility service as root."))
    if not BTF.exists():
        found.append(
            Obstacle("The kernel has no BTF description of itself.", "Use a kernel built with CONFIG_DEBUG_INFO_BTF.")
        )
    if "[confidentiality]" in _read(LOCKDOWN):
        found.append(
            Obstacle("The kernel is locked down for confidentiality.", "Boot with lockdown=integrity, or without it.")
        )
    if not has_grace_period():
        found.append(Obstacle("membarrier is not available.", "Boot without nohz_full."))
    return found


def _loading_obstacle() -> Optional[Obstacle]:
    try:
        if Library().supports_loop() is False:
            return Obstacle(
                f"Kernel {platform.release()} lacks bpf_loop.",
                "Upgrade to 5.17 or newer, or to a distribution kernel with the backport.",
            )
    except FarshoreError as error:
        return Obstacle(error.message, error.remedy)
    return _refusal(OBJECT)


def _refusal(object_path: Path) -> Optional[Obstacle]:
    """Return why the kernel does not accept this program, or None if it does."""
    try:
        Program(ring_bytes=_SMALL_RING, slot_words=_SMALL_SLOT, object_path=object_path).close()
    except FarshoreError as error:
        return Obstacle(error.message, error.remedy)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:  # absent without the lockdown module, or securityfs is not mounted
        return ""
