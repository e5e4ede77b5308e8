"""A program's certificate renewed while the program runs, and handed to whatever holds connections.

That is done when its end is near, and when the configuration server trusts other authorities than those that came with
it: the new ones come with a new certificate. Each of its answers announces such a change.

Each renewal comes with a key of its own. A failure is logged and tried again at the next look; there are months for it.
"""

from __future__ import annotations

import datetime
import logging
import threading
from pathlib import Path
from typing import Callable, Protocol, Sequence

from cryptography import x509

from farshore.api_types.machines import Enrolment, RenewalRequest
from farshore.client.credentials import Credentials
from farshore.client.key_request import new_key_and_request
from farshore.model.errors import FarshoreError, NotFound
from farshore.model.ports import Clock

log = logging.getLogger(__name__)

LOOK_SECONDS = 3600.0
HEAR_SECONDS = 2.0
"""How soon the word of the configuration server is followed that its authorities are others."""


class RenewingServer(Protocol):
    """The part of the configuration server's API that renews the caller's certificate."""

    @property
    def announced(self) -> str:
        """Changes when an answer says that the server trusts other authorities."""
        ...

    def authorities(self) -> str:
        """Return the certificates of all authorities that are trusted now. Raises NotFound if the server is older."""
        ...

    def renew(self, request: RenewalRequest) -> Enrolment:
        """Return a new certificate for the same caller."""
        ...


class Renewal:
    """Of the credentials at ``path``, ``before`` their end. ``name`` is what the request for a certificate says;
    ``users`` are told of new credentials."""

    def __init__(
        self,
        path: Path,
        server: RenewingServer,
        users: Sequence[Callable[[Credentials], None]],
        clock: Clock,
        *,
        name: str,
        before: datetime.timedelta,
    ) -> None:
        self._path, self._server, self._users, self._clock = path, server, users, clock
        self._name, self._before = name, before
        self._followed = ""

    def run(self, stop: threading.Event) -> None:
        """Look at once, as a program may never be up for a day, and now and then until ``stop``."""
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
        old = Credentials.load(self._path)
        ends = x509.load_pem_x509_certificate(old.certificate.encode()).not_valid_after_utc
        now = datetime.datetime.fromtimestamp(self._clock.now() / 1e9, datetime.timezone.utc)
        if ends - now > self._before and not self._has_other_authorities(old):
            self._followed = announced
            return False
        key, request = new_key_and_request(self._name)
        renewed = self._keep(old.url, self._server.renew(RenewalRequest(request=request)), key)
        for use in self._users:
            use(renewed)
        self._followed = announced
        log.info("The certificate was renewed; new connections use it.")
        return True

    def _keep(self, url: str, made: Enrolment, key: str) -> Credentials:
        renewed = Credentials(url, made.authority, made.certificate, key)
        renewed.save(self._path)
        return renewed

    def _has_other_authorities(self, old: Credentials) -> bool:
        try:
            return self._server.authorities() != old.authority
        except NotFound:
            return False  # a configuration server of an older release
