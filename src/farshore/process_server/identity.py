"""The process server's certificate: bought with a one-time token, renewed while the server runs.

New connections are made with a renewed certificate; connections that exist keep the old one to their end, so no stream
is interrupted. It is renewed as well when the configuration server trusts other authorities than those that came with
it; each of its answers announces such a change.
"""

from __future__ import annotations

import datetime
import logging
import threading
from pathlib import Path
from typing import Callable, Sequence

from cryptography import x509

from farshore.api_types.machines import RenewalRequest
from farshore.api_types.servers import ServerEnrolment, ServerEnrolmentRequest
from farshore.client.credentials import Credentials
from farshore.client.enrolment import enrol_process_server
from farshore.client.key_request import new_key_and_request
from farshore.client.process_server_self import ProcessServerSelf
from farshore.model.errors import FarshoreError, NotFound
from farshore.model.ports import Clock

_log = logging.getLogger(__name__)

RENEW_BEFORE = datetime.timedelta(days=60)
"""Longer than `farshore up` waits, so that a server that runs renews first."""
LOOK_SECONDS = 3600.0
HEAR_SECONDS = 2.0
"""How soon the word of the configuration server is followed that its authorities are others."""


def enrol(path: Path, url: str, pin: str, token: str) -> ServerEnrolment:
    """Trade the token for a certificate and keep it at ``path``. Raises Unauthenticated, Unreachable …"""
    key, request = new_key_and_request("process-server")
    made = enrol_process_server(url, pin, ServerEnrolmentRequest(token=token, request=request))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    Credentials(url, made.authority, made.certificate, key).save(path)
    return made


class Renewal:
    """Looks now and then whether the certificate at ``path`` is getting old. ``users`` are told of new credentials."""

    def __init__(
        self, path: Path, control: ProcessServerSelf, users: Sequence[Callable[[Credentials], None]], clock: Clock
    ) -> None:
        self._path, self._control, self._users, self._clock = path, control, users, clock
        self._followed = ""

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``; a failure is logged and tried again at the next look."""
        while True:
            try:
                self.renew_if_old()
            except FarshoreError as error:
                _log.warning("The certificate could not be renewed: %s", error)
            except Exception:  # without this thread the certificate would end one day, untold  # noqa: BLE001
                _log.exception("Renewing the certificate failed; it is tried again.")
            if self._rest(stop):
                return

    def _rest(self, stop: threading.Event) -> bool:
        """Wait until it is time to look again, or ``stop`` is set: then True."""
        end = self._clock.monotonic() + LOOK_SECONDS
        while not stop.wait(HEAR_SECONDS):
            if self._control.announced != self._followed or self._clock.monotonic() >= end:
                return False
        return True

    def renew_if_old(self) -> bool:
        """Renew it if its end is near or the authorities are others; whether that was so. Raises FarshoreError."""
        announced = self._control.announced  # before looking: what is announced meanwhile is looked at again
        old = Credentials.load(self._path)
        ends = x509.load_pem_x509_certificate(old.certificate.encode()).not_valid_after_utc
        now = datetime.datetime.fromtimestamp(self._clock.now() / 1e9, datetime.UTC)
        if ends - now > RENEW_BEFORE and not self._has_other_authorities(old):
            self._followed = announced
            return False
        key, request = new_key_and_request("process-server")
        made = self._control.renew(RenewalRequest(request=request))
        renewed = Credentials(old.url, made.authority, made.certificate, key)
        renewed.save(self._path)
        for use in self._users:
            use(renewed)
        self._followed = announced
        _log.info("The certificate was renewed; new connections use it.")
        return True

    def _has_other_authorities(self, old: Credentials) -> bool:
        try:
            return self._control.authorities() != old.authority
        except NotFound:
            return False  # a configuration server of an older release
