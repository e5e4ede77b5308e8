"""The process server's certificate: obtained with a one-time token, renewed while the server runs.

New connections use a renewed certificate; existing connections keep the old one until they end, so no stream is
interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from pathlib import Path
from typing import Callable, Sequence

from farshore.api_types.servers import Registration, ServerEnrolment, ServerEnrolmentRequest
from farshore.client import renewal
from farshore.client.credentials import Credentials
from farshore.client.enrolment import enrol_process_server
from farshore.client.key_request import new_key_and_request
from farshore.client.process_server_self import ProcessServerSelf
from farshore.client.transport import Transport
from farshore.model.ports import Clock

RENEW_BEFORE = datetime.timedelta(days=60)
"""Longer than `farshore up` waits, so that a server that runs renews first."""
_NAME = "process-server"


def enrol(path: Path, url: str, pin: str, token: str) -> ServerEnrolment:
    """Exchange the token for a certificate and store it at ``path``. Raises Unauthenticated, Unreachable …"""
    key, request = new_key_and_request(_NAME)
    made = enrol_process_server(url, pin, ServerEnrolmentRequest(token=token, request=request))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    Credentials(url, made.authority, made.certificate, key).save(path)
    return made


def turn_to(url: str, path: Path, registration: Registration, generation: int) -> bool:
    """Register at another configuration server of the same authority. If it owns the vault as a later generation, use
    it from the next start on. Return whether it does. Raises the client's errors if it does not answer, or does not
    know this process server."""
    credentials = Credentials.load(path)
    with contextlib.closing(ProcessServerSelf(Transport.from_credentials(credentials, url))) as there:
        later = there.register(registration).generation > generation
    if later:
        dataclasses.replace(credentials, url=url).save(path)
    return later


class Renewal(renewal.Renewal):
    """Renews the credentials at ``path``."""

    def __init__(
        self,
        path: Path,
        control: renewal.RenewingServer,
        users: Sequence[Callable[[Credentials], None]],
        clock: Clock,
    ) -> None:
        super().__init__(path, control, users, clock, name=_NAME, before=RENEW_BEFORE)
