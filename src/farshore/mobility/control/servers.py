"""Choose the configuration server that this machine uses, from an ordered list that is announced in normal operation.

The server announces its own URL and those of a possible successor. If it has been silent for a while, the others are
tried in turn, repeatedly: a server that answers must show a certificate of the same authority. A displaced server
announces its successor, to which the machine then switches. So a machine follows an installation that was adopted
without a new token, and never goes anywhere else.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import List, Optional

from farshore.client.credentials import Credentials
from farshore.client.machine_self import MachineSelf
from farshore.mobility.settings import Settings
from farshore.model.errors import FarshoreError
from farshore.model.ports import Clock

log = logging.getLogger(__name__)

SILENT_SECONDS = 30.0
"""A server that restarts has returned by then."""
TURN_SECONDS = 15.0
"""For each of the others, before the next is tried."""
MOST = 16


class Servers:
    """Used by the thread of the heartbeats."""

    def __init__(self, settings: Settings, server: MachineSelf, clock: Clock) -> None:
        self._settings, self._server, self._clock = settings, server, clock
        self._known = self._load()
        self._silent_since: Optional[float] = None
        self._turned = 0.0

    def answered(self) -> None:
        """Record that the current server has answered a heartbeat."""
        self._silent_since = None
        here, announced = self._server.url, self._server.servers[:MOST]
        if not announced:
            return
        if self._server.leaves:
            self._note(announced)
            log.warning("The installation has been taken over; this machine switches to %s.", announced[0])
            self._turn_to(announced[0])
            return
        # It may be reachable here by another name than it knows itself: that name is first, because it works.
        self._note([here, *(url for url in announced if url != here)])
        self._keep_url(here)

    def _note(self, known: List[str]) -> None:
        if known != self._known:
            self._known = known
            self._save()

    def failed(self) -> None:
        """Record that a heartbeat had no answer. After a while, switch to the next server of the list."""
        now = self._clock.monotonic()
        if self._silent_since is None:
            self._silent_since = self._turned = now
        others = [url for url in self._known if url != self._server.url]
        patience = SILENT_SECONDS if self._turned == self._silent_since else TURN_SECONDS
        if others and now - self._turned >= patience:
            self._turn_to(self._next())
            self._turned = now

    def _next(self) -> str:
        here = self._server.url
        place = self._known.index(here) if here in self._known else -1
        return self._known[(place + 1) % len(self._known)]

    def _turn_to(self, url: str) -> None:
        log.warning("Switching to another configuration server.", extra={"fields": {"url": url}})
        self._server.move_to(url)

    def _keep_url(self, url: str) -> None:
        """Store the URL: after a restart this server is tried first."""
        try:
            credentials = Credentials.load(self._settings.credentials)
            if credentials.url.rstrip("/") != url:
                replace(credentials, url=url).save(self._settings.credentials)
        except (FarshoreError, OSError) as error:
            log.warning("The server's address could not be stored: %s", error)

    def _load(self) -> List[str]:
        try:
            found = json.loads(self._settings.servers.read_text(encoding="utf-8"))
            return [str(url) for url in found["servers"] if str(url).startswith("https://")][:MOST]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _save(self) -> None:
        path = self._settings.servers
        made = path.with_suffix(".new")
        try:
            made.write_text(json.dumps({"servers": self._known}), encoding="utf-8")
            made.replace(path)
        except OSError as error:
            log.warning("%s cannot be written (%s).", path, error.strerror)
