"""Check memory, the state directory, and whether the servers' ports can be reached."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import FrozenSet, Iterator, Optional, Sequence
from urllib.parse import urlsplit

from farshore.api_types.machines import Finding
from farshore.client.proxies import proxy_for, proxy_port
from farshore.mobility.capture.disks import mounted_on
from farshore.mobility.capture.extents import file_ranges
from farshore.mobility.checks.findings import error, fine, warning
from farshore.mobility.settings import Settings
from farshore.model.errors import Refused, Unsupported

MEMORY = Path("/proc/meminfo")
NEEDED = 256 << 20
_CONNECT_SECONDS = 5.0


def check_memory(settings: Settings) -> Iterator[Finding]:
    """Yield findings on memory: the ring is locked memory, and batches that wait for the server need more."""
    kib = {line.split(":")[0]: int(line.split()[1]) for line in MEMORY.read_text(encoding="ascii").splitlines()}
    available = kib.get("MemAvailable", 0) << 10
    shown = f"{available >> 20} MiB of {kib.get('MemTotal', 0) >> 10} are free; the agent takes up to 256."
    if available < NEEDED + settings.ring_bytes - (64 << 20):
        yield warning("memory", shown, "Give the machine more memory, or a smaller ring: --ring-mib 16.")
    else:
        yield fine("memory", shown)


def check_state(settings: Settings, devices: FrozenSet[str], spill: Optional[Path]) -> Iterator[Finding]:
    """Yield whether there is space for the .hrl file, and whether it can be excluded from capture. ``spill``: the file,
    if there is one."""
    if not settings.spill_bytes:
        yield warning(
            "state directory",
            "There is no .hrl file by choice (--spill-mib 0): an outage is bridged from memory only.",
            "Allow one, of 512 MiB or more.",
        )
        return
    state = settings.state
    unwritable = _unwritable(state)
    if unwritable:
        yield warning(
            "state directory",
            f"{state} cannot be written to ({unwritable}): no .hrl file, an outage is bridged from memory only.",
            "Check the disk that it is on (dmesg, df, mount).",
        )
        return
    have = spill.stat().st_size if spill is not None and spill.exists() else 0
    status = os.statvfs(state)
    free = status.f_bavail * status.f_frsize + have
    if free < settings.spill_bytes:
        yield warning(
            "state directory",
            f"{state} has {free >> 20} MiB free, and the .hrl file takes {settings.spill_bytes >> 20}.",
            "Free space there, or set a smaller --spill-mib; without it an outage is bridged from memory only.",
        )
        return
    reason = _hidden(state) if spill is None or not spill.exists() else _hidden_file(spill)
    mounted = next((place for place in (state.resolve(), *state.resolve().parents) if place.is_mount()), Path("/"))
    below = mounted_on().get(str(mounted), frozenset())
    if reason and below & devices:
        yield warning(
            "state directory",
            f"There is no .hrl file, an outage is bridged from memory only: {reason}",
            "Give --state a place on ext4 or xfs, on a partition, an LVM linear volume or an md mirror.",
        )
    else:
        yield fine("state directory", f"{state} has room for the .hrl file.")


def check_reach(urls: Sequence[str]) -> Iterator[Finding]:
    """Yield whether each of the servers accepts a connection."""
    for url in urls:
        parts = urlsplit(url)
        address = (parts.hostname or "", parts.port or 443)
        proxy = proxy_for(url)
        if proxy is not None:
            through = urlsplit(proxy)
            yield from _check_proxy(f"server {address[0]}:{address[1]}", through.hostname or "", proxy_port(proxy))
            continue
        try:
            with socket.create_connection(address, _CONNECT_SECONDS):
                yield fine(f"server {address[0]}:{address[1]}", "It can be reached.")
        except OSError as problem:
            yield error(
                f"server {address[0]}:{address[1]}",
                f"It cannot be reached: {problem.strerror or problem}.",
                "Allow it in the firewalls in between (443 to the configuration server, 9443 to process servers).",
            )


def _check_proxy(subject: str, host: str, port: int) -> Iterator[Finding]:
    """Yield whether the proxy answers; what is behind it is only known when the agent connects."""
    try:
        with socket.create_connection((host, port), _CONNECT_SECONDS):
            yield fine(subject, f"The proxy {host}:{port} on the way to this server can be reached.")
    except OSError as problem:
        yield error(
            subject,
            f"The proxy {host}:{port} on the way to this server cannot be reached: {problem.strerror or problem}.",
            "Correct HTTPS_PROXY, or list the server in NO_PROXY.",
        )


@contextlib.contextmanager
def _trial(folder: Path) -> Iterator[Path]:
    """Yield a file of one block in ``folder``. Raises OSError."""
    trial = folder / ".farshore-trial"
    try:
        with trial.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 4096)
            os.fsync(file.fileno())
        yield trial
    finally:
        if trial.exists():
            trial.unlink()


def _unwritable(folder: Path) -> str:
    """Return why no file can be created in ``folder``, by trying; "" if it can, or could with enough space."""
    try:
        with _trial(folder):
            return ""
    except OSError as problem:
        return "" if problem.errno in (errno.ENOSPC, errno.EDQUOT) else str(problem.strerror)


def _hidden(folder: Path) -> str:
    """Return why a file in ``folder`` could not be excluded, by trying; "" if it could."""
    try:
        with _trial(folder) as trial:
            return _hidden_file(trial)
    except OSError as problem:
        return f"{problem.strerror}."


def _hidden_file(path: Path) -> str:
    try:
        file_ranges(path)
    except (Unsupported, Refused) as problem:
        return problem.message
    return ""
