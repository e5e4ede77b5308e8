"""Doubles of the clouds' object stores: servers from the package registries, started on free ports for the tests.

Azure: Azurite (npm), installed once below the cache folder (FARSHORE_DOUBLES, else ~/.cache/farshore/doubles). S3:
Ceph's RADOS Gateway (packages of the distribution, by `scripts/setup tests`), a real server.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import urllib3
from tests.contract.ceph import gateway

from farshore.lab.ports import free_port

CACHE = Path(os.environ.get("FARSHORE_DOUBLES", str(Path.home() / ".cache" / "farshore" / "doubles")))
BUCKET = "farshore"
_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's well-known account, the same everywhere: no secret."""


@contextlib.contextmanager
def azurite(
    *more: str, folder: Path | None = None, tls: tuple[Path, Path] | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """The URL of a container in Azurite, and the environment that opens it; ``more``: options for it. What it holds is
    kept in memory, or below ``folder``. ``tls``: the authority to trust, and Azurite's own certificate with its key:
    then it takes tokens, too."""
    command = CACHE / "node_modules" / ".bin" / "azurite-blob"
    if not command.exists():
        if shutil.which("npm") is None:
            raise FileNotFoundError("npm is not installed, which installs Azurite")
        _install(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(CACHE), "azurite"])
    port = free_port()
    kept = ["--inMemoryPersistence"] if folder is None else ["--location", str(folder)]
    ca, own = (str(tls[0]), str(tls[1])) if tls is not None else ("", "")
    more += ("--oauth", "basic", "--cert", own, "--key", own) if tls is not None else ()
    options = [*kept, "--skipApiVersionCheck", "--silent", "--blobPort", str(port), *more]
    with _running([str(command), *options], port):
        endpoint = f"http{'s' if tls is not None else ''}://127.0.0.1:{port}/{_ACCOUNT}"
        _make_container(endpoint, ca)
        environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": _ACCOUNT_KEY,
            "AZURE_STORAGE_ENDPOINT": endpoint,
            "AZURE_ALLOW_HTTP": "true",
        }
        yield f"az://{BUCKET}", environment


@contextlib.contextmanager
def ceph() -> Iterator[tuple[str, dict[str, str]]]:
    """The URL of a bucket behind a RADOS Gateway, and the environment that opens it."""
    with (
        tempfile.TemporaryDirectory(prefix="ceph-") as folder,
        gateway(Path(folder), BUCKET, free_port(), free_port()) as found,
    ):
        yield found


@contextlib.contextmanager
def gcs() -> Iterator[tuple[str, dict[str, str]]]:
    """A real bucket, FARSHORE_TEST_GCS=gs://bucket/prefix: the doubles in the registries lack the XML requests by which
    obstore writes."""
    yield os.environ["FARSHORE_TEST_GCS"], {}


def _install(command: list[str]) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run(command, check=True, capture_output=True, timeout=280)


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[0]} did not start")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(120)


def _make_container(endpoint: str, ca: str) -> None:
    """obstore makes no containers: one request signed with the account's key."""
    date = email.utils.formatdate(usegmt=True)
    headers = f"x-ms-date:{date}\nx-ms-version:2021-12-02"
    resource = f"/{_ACCOUNT}/{_ACCOUNT}/{BUCKET}\nrestype:container"
    text = "PUT" + "\n" * 12 + f"{headers}\n{resource}"
    signature = base64.b64encode(hmac.digest(base64.b64decode(_ACCOUNT_KEY), text.encode(), hashlib.sha256)).decode()
    answer = urllib3.PoolManager(ca_certs=ca or None).request(
        "PUT",
        f"{endpoint}/{BUCKET}?restype=container",
        headers={
            "x-ms-date": date,
            "x-ms-version": "2021-12-02",
            "Authorization": f"SharedKey {_ACCOUNT}:{signature}",
            "Content-Length": "0",
        },
    )
    if answer.status != 201:
        raise RuntimeError(f"Azurite did not make the container: {answer.status} {answer.data!r}")
