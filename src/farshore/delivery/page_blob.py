"""Write to a page blob of Azure: the form that a managed disk takes while it is uploaded directly.

The blob is a fixed VHD: the disk's bytes, padded to whole MiB, and a footer of 512 bytes, which `finish` writes after
everything else. A new blob is blank, so zeroes are never sent. Azure checks each request by its MD5, and answers when
the pages are durable: no flush is needed, and nothing is read back.

The address is a secret that expires (a SAS). `grant` requests one; a new one is requested when Azure refuses the last
one. Temporary errors are retried for a while, as Azure's Retry-After says; the SDK itself retries nothing.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from uuid import UUID

from azure.core.exceptions import AzureError
from azure.storage.blob import BlobClient

from farshore.delivery.blob_answers import Answer, understood
from farshore.delivery.page_runs import Held, runs_to_send
from farshore.formats.vhd import FOOTER_BYTES, footer, rounded
from farshore.model.errors import Refused
from farshore.model.ports import Extent

MOST = 4 << 20
"""Bytes that Azure accepts in one request; other servers may accept more."""
PARALLEL = 8
_PATIENCE = 60.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 15.0
_CLIENT: dict[str, Any] = {"retry_total": 0, "connection_timeout": 10, "read_timeout": 120}
Grant = Callable[[], str]
"""Returns the blob's address with the right to read and write it. Raises FarshoreError."""
Result = TypeVar("Result")


class PageBlob:
    """farshore.model.ports.Vouching for the blob of a disk of ``size`` bytes. ``identity`` names it: another disk has
    another one. ``patience``: seconds for which a request is retried.

    Raises Refused for a blob that is smaller."""

    def __init__(
        self,
        grant: Grant,
        size: int,
        identity: UUID,
        *,
        parallel: int = PARALLEL,
        patience: float = _PATIENCE,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grant, self._size, self._identity, self._parallel = grant, rounded(size), identity, parallel
        self._patience, self._sleep, self._clock = patience, sleep, clock
        self._lock = threading.Lock()
        self._client = _client(grant())
        self._held = Held(())
        self._fit()
        self.look()

    def _fit(self) -> None:
        found = self._ask("looked at", lambda client: client.get_blob_properties())
        room = int(found.size or 0) - FOOTER_BYTES
        if str(found.blob_type) != "BlobType.PAGEBLOB" or room < self._size or room != rounded(room):
            raise Refused(
                f"The disk at Azure has {found.size} bytes, but {self._size + FOOTER_BYTES} are needed.",
                remedy="Delete it there, and fail over again.",
            )
        self._size = room  # larger if the provider cannot make a disk this small

    @property
    def identity(self) -> str:
        """See Destination."""
        return f"page blob of disk {self._identity}"

    @property
    def blank(self) -> bool:
        """See Destination: pages that were never written are zero."""
        return True

    @property
    def parallel(self) -> int:
        """See Vouching."""
        return self._parallel

    def check_room(self, needed: int) -> None:
        """See Destination: Azure has reserved the disk's space."""

    def write(self, offset: int, data: memoryview) -> None:
        """See Destination."""
        self.send(offset, data)

    def send(self, offset: int, data: memoryview) -> int:
        """See Vouching."""
        sent = 0
        for start, end in runs_to_send(data, MOST):
            self._put(offset + start, bytes(data[start:end]))
            sent += end - start
        return sent

    def _put(self, offset: int, pages: bytes) -> None:
        self._ask(
            "written to",
            lambda client: client.upload_page(pages, offset, len(pages), validate_content="md5"),
        )

    def zero(self, offset: int, length: int) -> None:
        """See Destination: uses the last look; what was never written is not touched."""
        for start, end in self._held.ranges(offset, length):
            self._clear(start, end - start)

    def _clear(self, start: int, length: int) -> None:
        self._ask("cleared", lambda client: client.clear_page(start, length))

    def flush(self) -> None:
        """See Destination: each write was durable when it was answered."""

    def finish(self) -> None:
        """Write the footer, after everything else. May be repeated."""
        self._put(self._size, footer(self._size, self._identity))

    def look(self) -> None:
        """See Vouching."""
        self._held = self._ask(
            "listed", lambda client: Held((one.start or 0, (one.end or 0) + 1) for one in client.list_page_ranges())
        )

    def holds(self, offset: int, length: int) -> int:
        """See Vouching."""
        return self._held.count(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See Destination."""
        buffer[:] = self._ask("read", lambda client: client.download_blob(offset, len(buffer)).readall())

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """See Destination: as of the last look."""
        place, end = offset, offset + length
        for start, stop in self._held.ranges(offset, length):
            if start > place:
                yield Extent(place, start - place, zero=True)
            yield Extent(start, stop - start, zero=False)
            place = stop
        if place < end:
            yield Extent(place, end - place, zero=True)

    def close(self) -> None:
        """See Destination."""
        self._client.close()

    def _ask(self, what: str, act: Callable[[BlobClient], Result]) -> Result:
        """Return the result of ``act``, with a valid grant. Raises Forbidden, NotFound, Refused, TryLater."""
        give_up, wait, renewed = self._clock() + self._patience, _FIRST_WAIT, False
        while True:
            client = self._client
            try:
                return act(client)
            except AzureError as error:
                kind, after, fault = understood(error, f"The disk at Azure cannot be {what}")
                if kind is Answer.DENIED and not renewed:
                    renewed = True
                    self._renew(client)
                    continue
                pause = max(after, random.uniform(wait / 2, wait))
                if kind is not Answer.PASSES or self._clock() + pause > give_up:
                    raise fault from error
            self._sleep(pause)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _renew(self, used: BlobClient) -> None:
        """Request a new address, unless another thread got one since ``used`` was refused."""
        with self._lock:
            if self._client is used:
                self._client = _client(self._grant())
                # Requests of other threads may still use the old one: it is closed with the last of them.


def _client(address: str) -> BlobClient:
    try:
        return BlobClient.from_blob_url(address, **_CLIENT)
    except ValueError:
        # The error's own text may contain the address, which is a secret.
        raise Refused(
            "Azure did not return an address of the blob.", remedy="Check the site: farshore site check"
        ) from None
