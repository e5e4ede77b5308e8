"""Renew the machine's certificate while the agent runs, and use it at once in all its connections."""

from __future__ import annotations

import datetime
import os
from typing import Callable, Sequence

from farshore.api_types.machines import Enrolment
from farshore.client import renewal
from farshore.client.credentials import Credentials
from farshore.client.machine_self import MachineSelf
from farshore.mobility.control.identity import keep
from farshore.mobility.settings import Settings
from farshore.model.ports import Clock

RENEW_BEFORE = datetime.timedelta(days=120)


class Renewal(renewal.Renewal):
    """Renews the agent's credentials. A full disk is named in the error."""

    def __init__(
        self,
        settings: Settings,
        server: MachineSelf,
        users: Sequence[Callable[[Credentials], None]],
        clock: Clock,
    ) -> None:
        name = os.uname().nodename
        super().__init__(settings.credentials, server, users, clock, name=name, before=RENEW_BEFORE)

    def _keep(self, url: str, made: Enrolment, key: str) -> Credentials:
        keep(self._path, url, made, key)
        return Credentials.load(self._path)
