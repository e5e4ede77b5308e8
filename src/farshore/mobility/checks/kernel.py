"""Check the kernel: which capture mode it allows, what prevents a better one, and what the agent may do in it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import Iterator

from farshore.api_types.machines import Finding
from farshore.mobility.capture.probe import BTF, LOCKDOWN, Ability
from farshore.mobility.checks.findings import error, fine, warning
from farshore.mobility.settings import Settings
from farshore.model.states import CaptureMode

STATUS = Path("/proc/self/status")
OLDEST_PYTHON = (3, 9)
_CAPABILITIES = {21: "CAP_SYS_ADMIN"}
_FULL = {38: "CAP_PERFMON", 39: "CAP_BPF"}
_TIME_ERROR = 5
_TIMEX_BYTES = 512


def check_kernel(ability: Ability, settings: Settings) -> Iterator[Finding]:
    """Yield the findings. ``ability``: the result of ``probe``."""
    release = platform.release()
    if settings.capture not in (None, CaptureMode.DATA, ability.mode) and ability.mode is not CaptureMode.SCAN:
        assert settings.capture is not None
        yield warning(
            "capture mode",
            f"{settings.capture.value} mode was requested, but the machine supports {ability.mode.value} mode.",
            "Remove --capture from FARSHORE_OPTIONS in /etc/farshore/mobility.conf.",
        )
    elif ability.mode is CaptureMode.DATA:
        yield fine("capture mode", f"Linux {release} captures in data mode: any second can be recovered.")
    every = settings.round_seconds if ability.mode is CaptureMode.BITMAP else settings.scan_seconds
    for obstacle in ability.obstacles:
        rounds = f"Protection is in {ability.mode.value} mode: a point every {every:.0f} seconds or so."
        yield warning("capture mode", f"{obstacle.reason} {rounds}", obstacle.remedy)
    if BTF.exists():
        yield fine("kernel types (BTF)", "The kernel has a BTF description of itself.")
    else:
        yield warning(
            "kernel types (BTF)",
            "The kernel has no BTF description of itself.",
            "Use a kernel built with CONFIG_DEBUG_INFO_BTF, as all large distributions have.",
        )
    yield _lockdown()
    yield fine("bpffs, tracefs", "Not needed: the hooks are attached by file descriptors.")


def check_process() -> Iterator[Finding]:
    """Yield findings on this process's rights, and on its interpreter."""
    effective = next(
        (int(line.split()[1], 16) for line in STATUS.read_text(encoding="ascii").splitlines() if "CapEff" in line), 0
    )
    lacking = [name for bit, name in _CAPABILITIES.items() if not effective >> bit & 1]
    lacking += [name for bit, name in _FULL.items() if not effective >> bit & 1 and lacking]
    if os.geteuid() == 0 and not lacking:
        yield fine("privileges", "The agent runs as root with all that it needs.")
    else:
        yield error(
            "privileges",
            f"The agent is not root, or in a container without {', '.join(lacking) or 'its rights'}.",
            "Run the mobility service as root on the machine itself, not in a container.",
        )
    version = sys.version_info[:2]
    shown = ".".join(map(str, version))
    if version >= OLDEST_PYTHON:
        yield fine("Python", f"Python {shown}.")
    else:
        yield error("Python", f"Python {shown} is too old.", "Install Python 3.9 or newer; push the agent again.")


def check_clock() -> Iterator[Finding]:
    """Yield findings on the clock: points are found by their time, which is this machine's."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes 0: only asks
    state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    if state == _TIME_ERROR:
        yield warning(
            "clock",
            "The clock is not synchronised, and points are found by this machine's time.",
            "Run chrony or systemd-timesyncd: timedatectl set-ntp true",
        )
    elif state >= 0:
        yield fine("clock", "The clock is synchronised.")


def _lockdown() -> Finding:
    try:
        modes = LOCKDOWN.read_text(encoding="ascii").strip()
    except OSError:
        return fine("lockdown", "The kernel has no lockdown, or does not show it.")
    if "[confidentiality]" in modes:
        return warning(
            "lockdown",
            "The kernel is locked down for confidentiality, which forbids BPF programs to read memory.",
            "Boot with lockdown=integrity, which is enough for Secure Boot.",
        )
    return fine("lockdown", f"No problem ({modes or 'none'}).")
