"""The master target's certificate: obtained with a one-time token, renewed while it runs."""

from __future__ import annotations

import datetime
from pathlib import Path

from farshore.api_types.master_targets import MasterTargetEnrolment, MasterTargetEnrolmentRequest
from farshore.client import renewal
from farshore.client.credentials import Credentials
from farshore.client.enrolment import enrol_master_target
from farshore.client.key_request import new_key_and_request
from farshore.client.master_target_self import MasterTargetSelf
from farshore.model.ports import Clock

RENEW_BEFORE = datetime.timedelta(days=60)
"""Longer than `farshore up` waits, so that one that runs renews first."""
_NAME = "master-target"


def enrol(path: Path, url: str, pin: str, token: str) -> MasterTargetEnrolment:
    """Exchange the token for a certificate and store it at ``path``. Raises Unauthenticated, Unreachable …"""
    key, request = new_key_and_request(_NAME)
    made = enrol_master_target(url, pin, MasterTargetEnrolmentRequest(token=token, request=request))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    Credentials(url, made.authority, made.certificate, key).save(path)
    return made


class Renewal(renewal.Renewal):
    """Renews the credentials at ``path``."""

    def __init__(self, path: Path, control: MasterTargetSelf, clock: Clock) -> None:
        super().__init__(path, control, (control.use,), clock, name=_NAME, before=RENEW_BEFORE)
