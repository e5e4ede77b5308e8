"""The machine's certificate renewed while the agent runs, and put to use at once in all its connections.

That is done when its end is near, and when the configuration server trusts other authorities than those that came with
it: the new ones come with a new certificate. Each of its answers announces such a change.

Each renewal comes with a key of its own. A failure is told and tried again at the next look; there are months for it.
"""

from __future__ import annotations

import datetime
import logging
import os
import threading
from typing import Callable, Sequence

from cryptography import x509

from farshore.api_types.machines import RenewalRequest
from farshore.client.credentials import Credentials
from farshore.client.key_request import new_key_and_request
from farshore.client.machine_self import MachineSelf
from farshore.mobility.identity import keep
from farshore.mobility.settings import Settings
from farshore.model.errors import FarshoreError, NotFound
from farshore.model.ports import Clock

log = logging.getLogger(__name__)

RENEW_BEFORE = datetime.timedelta(days=120)
LOOK_SECONDS = 3600.0
HEAR_SECONDS = 2.0
"""How soon the word of the configuration server is followed that its authorities are others."""


class Renewal:
    """``users`` are told of new credentials: whatever holds connections."""

    def __init__(
        self,
        settings: Settings,
        server: MachineSelf,
        users: Sequence[Callable[[Credentials], None]],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._server = server
        self._users = users
        self._clock = clock
        self._followed = ""

    def run(self, stop: threading.Event) -> None:
        """Look at once, as a machine may never be up for a day, and now and then until ``stop``."""
        while True:
            try:
                self.renew_if_old()
            except FarshoreError as error:
                log.warning("The certificate could not be renewed: %s", error)
            except Exception:  # without this thread the certificate would end one day, and nobody would have been told
                log.exception("Renewing the certificate failed; it is tried again.")
            if self._rest(stop):
                return

    def _rest(self, stop: threading.Event) -> bool:
        """Wait until it is time to look again, or ``stop`` is set: then True."""
        end = self._clock.monotonic() + LOOK_SECONDS
        while not stop.wait(HEAR_SECONDS):
            if self._server.announced != self._followed or self._clock.monotonic() >= end:
                return False
        return True

    def renew_if_old(self) -> bool:
        """Renew the certificate if its end is near or the authorities are others; whether that was so.

        Raises FarshoreError.
        """
        announced = self._server.announced  # before looking: what is announced meanwhile is looked at again
        old = Credentials.load(self._settings.credentials)
        ends = x509.load_pem_x509_certificate(old.certificate.encode()).not_valid_after_utc
        now = datetime.datetime.fromtimestamp(self._clock.now() / 1e9, datetime.timezone.utc)
        if ends - now > RENEW_BEFORE and not self._has_other_authorities(old):
            self._followed = announced
            return False
        key, request = new_key_and_request(os.uname().nodename)
        keep(self._settings.credentials, old.url, self._server.renew(RenewalRequest(request=request)), key)
        renewed = Credentials.load(self._settings.credentials)
        for use in self._users:
            use(renewed)
        self._followed = announced
        log.info("The certificate was renewed and is in use.")
        return True

    def _has_other_authorities(self, old: Credentials) -> bool:
        try:
            return self._server.authorities() != old.authority
        except NotFound:
            return False  # a configuration server of an older release
