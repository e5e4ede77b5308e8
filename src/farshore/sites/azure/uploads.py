"""Managed disks that are uploaded to: made, opened for pages, closed, discarded. See Ingesting.

What state a disk is in is Azure's to say: ReadyToUpload, ActiveUpload once somebody was granted its address, Unattached
once that was taken back, Attached. To take the address back ends the upload for good.
"""

from __future__ import annotations

import uuid
from typing import Any

from azure.core.exceptions import HttpResponseError

from farshore.formats.vhd import FOOTER_BYTES, rounded
from farshore.model.errors import NotFound, TryLater
from farshore.sites.azure import documents
from farshore.sites.azure.answers import is_absent, persistently, plain
from farshore.sites.azure.clients import Clients
from farshore.sites.azure.names import belongs, disk_name
from farshore.sites.azure.settings import AzureSettings
from farshore.sites.azure.sizes import generation_of
from farshore.sites.port import FailoverId, NewDisk, Reception

SMALLEST = 20 << 20
"""Bytes of the smallest disk that Azure makes by upload."""
_GRANT_SECONDS = 24 * 3600
_OPEN = frozenset({"ReadyToUpload", "ActiveUpload"})
_GRANTED = frozenset({"ActiveUpload", "ActiveSAS"})


class Uploads:
    """The disks of one site. Methods raise AzureError, and what they say."""

    def __init__(self, clients: Clients, settings: AzureSettings) -> None:
        self._disks, self._settings = clients.compute.disks, settings
        self._group, self._pause = settings.resource_group, settings.poll_seconds

    def receive(self, wanted: NewDisk) -> Reception:
        """See Ingesting."""
        name = disk_name(wanted.failover, wanted.number)
        found = self.find(wanted.failover, wanted.number)
        if found is None or plain(found.properties.provisioning_state) == "Failed":
            size = max(rounded(wanted.size), SMALLEST) + FOOTER_BYTES
            generation = generation_of(wanted.firmware)
            body = documents.disk(self._settings, wanted.failover, wanted.name, size, generation, boot=wanted.boot)
            found = persistently(
                lambda: self._disks.begin_create_or_update(self._group, name, body).result(), self._pause
            )
        return Reception(uuid.UUID(found.properties.unique_id), plain(found.properties.disk_state) not in _OPEN)

    def grant(self, failover: FailoverId, number: int) -> str:
        """See Ingesting."""
        wanted = {"access": "Write", "durationInSeconds": _GRANT_SECONDS}
        name = disk_name(failover, number)
        granted = persistently(lambda: self._disks.begin_grant_access(self._group, name, wanted).result(), self._pause)
        return str(granted.access_sas)

    def accept(self, failover: FailoverId, number: int) -> None:
        """See Ingesting."""
        found = self.find(failover, number)
        if found is None:
            raise NotFound(f"The disk {disk_name(failover, number)} is gone.", remedy="Fail over again.")
        if plain(found.properties.disk_state) in _OPEN:
            self._revoke(disk_name(failover, number))

    def _revoke(self, name: str) -> None:
        persistently(lambda: self._disks.begin_revoke_access(self._group, name).result(), self._pause)

    def find(self, failover: FailoverId, number: int) -> Any:
        """The disk as Azure has it; None if there is none."""
        try:
            return self._disks.get(self._group, disk_name(failover, number))
        except HttpResponseError as error:
            if is_absent(error):
                return None
            raise

    def is_accepted(self, failover: FailoverId, number: int) -> bool:
        """Whether it is there and can be attached."""
        found = self.find(failover, number)
        return found is not None and plain(found.properties.disk_state) not in _OPEN

    def discard(self, failover: FailoverId) -> None:
        """See Ingesting."""
        for one in list(self._disks.list_by_resource_group(self._group)):
            if not belongs(one.tags, failover):
                continue
            if one.managed_by:
                raise TryLater(f"The disk {one.name} is attached to a machine.", remedy="Destroy that machine first.")
            if plain(one.properties.disk_state) in _GRANTED:
                self._revoke(one.name)
            self._delete(one.name)

    def _delete(self, name: str) -> None:
        persistently(lambda: self._disks.begin_delete(self._group, name).result(), self._pause)
