"""Page blobs in Azurite as disks that are uploaded to, and an upload in a process of its own, to be killed."""

from __future__ import annotations

import datetime
import os
import signal
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from azure.storage.blob import BlobClient, BlobServiceClient, generate_blob_sas

from farshore.delivery.ledger import Lading, Ledger
from farshore.delivery.page_blob import PageBlob
from farshore.delivery.writing import write_disk
from farshore.export.raw_file import RawFileSource
from farshore.formats.vhd import FOOTER_BYTES, rounded

CONTAINER = "disks"
IDENTITY = uuid.UUID("5f0c1f6e-0f3a-4c55-9d0a-0123456789ab")


class Blobs:
    """The disks of one Azurite, by the environment that opens it. ``port``: of a proxy before it, for the grants."""

    def __init__(self, environment: Mapping[str, str], port: int | None = None) -> None:
        endpoint = environment["AZURE_STORAGE_ENDPOINT"]
        self._account, self._key = environment["AZURE_STORAGE_ACCOUNT_NAME"], environment["AZURE_STORAGE_ACCOUNT_KEY"]
        self._service = BlobServiceClient(endpoint, credential=self._key)
        upstream = urlsplit(endpoint).port
        self._shown = endpoint if port is None else endpoint.replace(f":{upstream}", f":{port}")
        self._container = self._service.get_container_client(CONTAINER)
        if not self._container.exists():
            self._container.create_container()
        self.grants = 0

    def make(self, size: int, name: str = "") -> str:
        """A blank disk; its name."""
        name = name or str(uuid.uuid4())
        self._container.get_blob_client(name).create_page_blob(rounded(size) + FOOTER_BYTES)
        return name

    def direct(self, name: str) -> BlobClient:
        """The disk, past any proxy."""
        return self._container.get_blob_client(name)

    def grant(self, name: str, seconds: float = 3600, rights: str = "rw") -> str:
        """An address of the disk with rights that end."""
        self.grants += 1
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        sas = generate_blob_sas(self._account, CONTAINER, name, account_key=self._key, permission=rights, expiry=until)
        return f"{self._shown}/{CONTAINER}/{name}?{sas}"

    def put(self, name: str, data: bytes) -> str:
        """Keep a file; an address to read it at."""
        self._container.get_blob_client(name).upload_blob(data, overwrite=True)
        return self.grant(name, rights="r")

    def close(self) -> None:
        self._service.close()


def upload(address: str, image: Path, ledger: Path, blob_type: type[PageBlob] = PageBlob) -> None:
    """Bring ``image`` to the disk at ``address``, footer and all."""
    source = RawFileSource(image)
    blob = blob_type(lambda: address, source.size, IDENTITY)
    record = Ledger(ledger, Lading("web1 1:12 disk 0", blob.identity, source.size, 4 << 20))
    try:
        write_disk(source, blob, record, lambda *_: None, flush_bytes=8 << 20)
        blob.finish()
    finally:
        record.close()
        blob.close()
        source.close()


def upload_and_die(address: str, image: Path, ledger: Path, at: int) -> None:
    """The same, in a process that dies by SIGKILL before its ``at``-th request that changes the disk."""
    lock, passed = threading.Lock(), [0]

    class Fused(PageBlob):
        def _put(self, offset: int, pages: bytes) -> None:
            with lock:
                passed[0] += 1
                if passed[0] >= at:
                    os.kill(os.getpid(), signal.SIGKILL)
            super()._put(offset, pages)

    upload(address, image, ledger, Fused)
