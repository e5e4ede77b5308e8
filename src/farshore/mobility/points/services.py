"""Stop a machine's services before its last point, and start them again if that point is not created.

Stopped are units that run and were started after the basic system, those with which systemd's shutdown would begin.
What the agent needs for its last messages remains: the network, the message bus, logins, its own unit.

The stopped units are written to a file first, with the id of the boot: if the agent dies in between, the next one
starts them again. After another boot (of the source, or of its recovered copy) systemd has started them.

Layout (JSON): ``{"format": 1, "boot": text, "services": [text, …]}``.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Dict, List, Sequence, Set

from farshore.client.credentials import read_private, write_private
from farshore.mobility.unit import Answer, ask_systemctl
from farshore.mobility.upgrade.handover import boot, forget
from farshore.mobility.upgrade.releases import UNIT
from farshore.model.errors import FarshoreError, TryLater

log = logging.getLogger(__name__)

_FORMAT = 1
_ASK_SECONDS = 30.0
_BEFORE_NETWORK = frozenset({"network.target", "network-pre.target", "network-online.target"})
_AFTER_BASIC = "basic.target"
_KEPT = (
    "dbus", "polkit", "user@", "getty@", "serial-getty@", "ssh.", "sshd.", "qemu-guest-agent", "open-vm-tools",
    "vmtoolsd", "dhclient", "dhcpcd", "multipathd", "iscsid", "lvm2-", "systemd-",
)  # fmt: skip
"""Prefixes of their names. None of them keeps its users' data; some provide the agent's disks or network."""


class Services:
    """``path``: the file with the stopped units."""

    def __init__(self, path: Path, systemctl: Answer = ask_systemctl) -> None:
        self._path = path
        self._systemctl = systemctl

    def stop(self, seconds: float) -> List[str]:
        """Stop them; return those that have not ended after ``seconds``. Raises TryLater if systemd does not answer."""
        end = time.monotonic() + seconds
        wanted = self._to_stop()
        if not wanted:
            return []
        self._note(wanted)
        log.warning("Services are stopped for the shutdown.", extra={"fields": {"services": " ".join(wanted)}})
        try:
            self._systemctl(["stop", "--", *wanted], seconds)
        except TryLater as error:
            log.warning("Not all of them ended in time: %s", error)
        running = self._running(max(_ASK_SECONDS, end - time.monotonic()))
        return [one for one in wanted if one in running]

    def start_again(self) -> None:
        """Start what was stopped in this boot, and delete the record."""
        stopped = self._stopped()
        if stopped:
            log.warning("Services start again.", extra={"fields": {"services": " ".join(stopped)}})
            try:
                self._systemctl(["--no-block", "start", "--", *stopped], _ASK_SECONDS)
            except TryLater as error:
                log.error("Services that were stopped for a shutdown may not run again: %s", error)
                return
        forget(self._path)

    def _to_stop(self) -> List[str]:
        running = self._running(_ASK_SECONDS)
        names = sorted(one for one in running if one != UNIT and not one.startswith(_KEPT))
        if not names:
            return []
        told = self._systemctl(["show", "--property=Id,Before,After", "--", *names], _ASK_SECONDS)
        return sorted(_serving(told) & set(names))

    def _running(self, seconds: float) -> Set[str]:
        listing = ["list-units", "--type=service", "--state=active,activating,deactivating", "--no-legend", "--plain"]
        return {line.split()[0] for line in self._systemctl(listing, seconds).splitlines() if line.split()}

    def _note(self, services: Sequence[str]) -> None:
        fields = {"format": _FORMAT, "boot": boot(), "services": list(services)}
        write_private(self._path, json.dumps(fields).encode())

    def _stopped(self) -> List[str]:
        try:
            fields = json.loads(read_private(self._path))
            known = fields["format"] == _FORMAT and fields["boot"] == boot()
            return [str(one) for one in fields["services"]] if known else []
        except (FarshoreError, OSError, ValueError, KeyError, TypeError):
            return []


def _serving(told: str) -> Set[str]:
    """Return, from the output of ``systemctl show``, the units of the running system without those that the network
    needs."""
    found = set()
    for block in told.split("\n\n"):
        fields: Dict[str, List[str]] = {}
        for line in block.splitlines():
            name, _, value = line.partition("=")
            fields[name] = value.split()
        early = _AFTER_BASIC not in fields.get("After", [])
        if not early and not _BEFORE_NETWORK & set(fields.get("Before", [])):
            found.update(fields.get("Id", []))
    return found
