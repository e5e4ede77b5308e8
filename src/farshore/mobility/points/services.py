"""Stops what a machine does for its users, before its last point, and starts it again where that point does not come.

Stopped is what runs and was started after the basic system, as systemd's shutdown would begin with. What the agent
needs to say its last words stays: the network, the message bus, logins, its own unit.

What was stopped is written down first, with the boot that it was in: an agent that dies in between is followed by one
that starts it again. After another boot (of the source, or of its recovered copy) systemd has seen to that.

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
"""Their names' beginnings. None of them keeps its users' data; some of them the agent's disks or network rest upon."""


class Services:
    """``path``: where it is written down what was stopped."""

    def __init__(self, path: Path, systemctl: Answer = ask_systemctl) -> None:
        self._path = path
        self._systemctl = systemctl

    def stop(self, seconds: float) -> List[str]:
        """Stop them; those that have not ended after ``seconds``. Raises TryLater if systemd does not answer."""
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
        """Start what was stopped in this boot, and forget it."""
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
    """Of units, as ``systemctl show`` tells them: those of the running system, less what the network rests upon."""
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
