"""Renews a program's certificate while the program runs, and passes it to everything that holds connections.

A certificate is renewed when its end is near, and when the configuration server trusts other authorities than those
that came with it, because the new authorities come with a new certificate. Each answer of the configuration server
announces such a change.

Each renewal uses a new key. A failure is logged and retried at the next check; there are months for it.
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
"""How soon the program reacts when the configuration server announces other authorities."""


class RenewingServer(Protocol):
    """The part of the configuration server's API that is needed for renewal."""

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
    """Renews the credentials at ``path``, ``before`` they end. ``name`` goes into the certificate request; ``users``
    get the new credentials."""

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
        """Check at once, because a program may never run for a whole day, and then regularly until ``stop``."""
        while True:
            try:
                self.renew_if_old()
            except FarshoreError as error:
                log.warning("The certificate could not be renewed: %s", error)
            except Exception:  # Without this thread the certificate would end one day without notice.
                log.exception("Renewing the certificate failed; it is tried again.")
            if self._rest(stop):
                return

    def _rest(self, stop: threading.Event) -> bool:
        """Wait until the next check is due, or ``stop`` is set; return whether it is set."""
        end = self._clock.monotonic() + LOOK_SECONDS
        while not stop.wait(HEAR_SECONDS):
            if self._server.announced != self._followed or self._clock.monotonic() >= end:
                return False
        return True

    def renew_if_old(self) -> bool:
        """Renew the certificate if its end is near or the authorities have changed; return whether it was renewed.

        Raises FarshoreError."""
        # read before the check, so that a change announced during it is checked again
        announced = self._server.announced
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
