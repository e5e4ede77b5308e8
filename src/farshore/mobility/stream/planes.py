"""The connection to the process server: made for each epoch, and switched while the epoch continues.

The grant of an epoch names the process server of this machine's stream, and so does every heartbeat. Requests in
progress when it changes end normally, or fail and are repeated at the new server; the new server says which record it
expects next.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Optional

from farshore.api_types.machines import EpochGrant
from farshore.client.credentials import Credentials
from farshore.client.data_plane import DataPlane
from farshore.client.roles import Role
from farshore.client.transport import Transport
from farshore.model.identifiers import MachineId

log = logging.getLogger(__name__)


class Planes:
    """Created in one thread, switched by another."""

    def __init__(self, machine: MachineId, credentials: Path) -> None:
        self._machine = machine
        self._credentials = credentials
        self._transport: Optional[Transport] = None

    def __call__(self, grant: EpochGrant) -> DataPlane:
        """Return the plane of a new epoch; the credentials may have been renewed since the last one."""
        transport = Transport.from_credentials(
            Credentials.load(self._credentials), grant.process_server, Role.PROCESS_SERVER
        )
        self._transport = transport
        return DataPlane(transport, self._machine, grant.epoch)

    def follow(self, url: str) -> None:
        """Send the stream to this process server from now on; "" if none is known."""
        transport = self._transport
        if url and transport is not None and transport.url != url.rstrip("/"):
            log.info(
                "The stream now goes to another process server.", extra={"fields": {"from": transport.url, "to": url}}
            )
            transport.move_to(url)

    def use(self, credentials: Credentials) -> None:
        """Use a renewed certificate from now on, in the middle of an epoch too."""
        if self._transport is not None:
            self._transport.renew(credentials)
