"""A vault in an object store behind an HTTP proxy: TLS goes through it by CONNECT, what has none by its whole URL, and
NO_PROXY is heeded. Run with doubles of S3, Azure Blob and GCS.

What the environment says is read when a store is opened, by the library that speaks to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from tests.contract.doubles import azurite
from tests.crash.process_server.faulty_s3 import FaultyStore
from tests.scenarios.client.test_proxies import Proxy
from tests.scenarios.client.test_transport import Authority, pem

from farshore.model.errors import FarshoreError
from farshore.vault import OwnerKey, Vault
from farshore.vault.stores.registry import open_store

VARIABLES = ("https_proxy", "http_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
LOGIN = "proxy-authorization: basic zhi6cgfzcyb3b3jk"
HOST = "store.test"
"""A name that only the proxy knows."""


@dataclass(frozen=True)
class Cloud:
    """A double at ``port`` of this host. ``environment`` opens it at an address, such as https://store.test."""

    url: str
    port: int
    environment: Callable[[str], dict[str, str]]


@contextlib.contextmanager
def s3() -> Iterator[Cloud]:
    with FaultyStore() as store:
        port = store._server.server_address[1]
        plain = {**store.environment, "AWS_TIMEOUT": "10 seconds"}
        yield Cloud(store.url, port, lambda at: {**plain, "AWS_ENDPOINT": at})


@contextlib.contextmanager
def gcs() -> Iterator[Cloud]:
    with FaultyStore() as store:

        def environment(at: str) -> dict[str, str]:
            account = {"gcs_base_url": at, "disable_oauth": True, "client_email": "", "private_key": ""}
            account |= {"private_key_id": ""}
            return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account), "GOOGLE_ALLOW_HTTP": "true"}

        yield Cloud(store.url.replace("s3:", "gs:"), store._server.server_address[1], environment)


@contextlib.contextmanager
def azure() -> Iterator[Cloud]:
    with azurite("--disableProductStyleUrl") as (url, plain):
        endpoint = urlsplit(plain["AZURE_STORAGE_ENDPOINT"])
        yield Cloud(url, endpoint.port or 0, lambda at: {**plain, "AZURE_STORAGE_ENDPOINT": at + endpoint.path})


@pytest.fixture(scope="module", params=[s3, azure, gcs], ids=lambda cloud: cloud.__name__)
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    with request.param() as made:
        yield made


class TlsFront:
    """Speaks TLS before a port of this host that does not. In one thread: two must not use a TLS connection at once."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._writers: list[asyncio.StreamWriter] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(60)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.1)  # connections that were aborted are closed in a later turn of the loop

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._writers.append(writer)
        try:
            answers, store = await asyncio.open_connection("127.0.0.1", self._port)
            ends.append(store)
            self._writers.append(store)
            ways = [asyncio.create_task(_pass_on(*way)) for way in ((reader, store), (answers, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                with contextlib.suppress(OSError):
                    end.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@dataclass(frozen=True)
class Scene:
    """A store behind a proxy; ``port`` is where it is reached without."""

    cloud: Cloud
    proxy: Proxy
    scheme: str
    port: int
    patch: pytest.MonkeyPatch

    def put_at(self, host: str) -> None:
        for name, value in self.cloud.environment(f"{self.scheme}://{host}").items():
            self.patch.setenv(name, value)


@pytest.fixture(params=["https", "http"])
def scene(
    request: pytest.FixtureRequest, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with contextlib.ExitStack() as ends:
        port = cloud.port
        if request.param == "https":
            front = TlsFront(port, _context(tmp_path))
            ends.callback(front.close)
            port = front.port
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority"))
        proxy = Proxy(port)
        ends.callback(proxy.close)
        monkeypatch.setenv(f"{request.param.upper()}_PROXY", f"http://dr:pass%20word@127.0.0.1:{proxy.port}")
        made = Scene(cloud, proxy, request.param, port, monkeypatch)
        made.put_at(HOST)
        yield made


def _context(folder: Path) -> ssl.SSLContext:
    authority = Authority()
    names = (x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    certificate, key = authority.issue(*names)
    for name, text in (("authority", pem(authority.certificate)), ("certificate", certificate), ("key", key)):
        (folder / name).write_text(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate", folder / "key")
    return context


def test_a_vault_is_made_and_read_through_the_proxy(scene: Scene, tmp_path: Path) -> None:
    key = OwnerKey.generate_file(tmp_path / "vault.key")
    url = f"{scene.cloud.url}/{scene.scheme}"
    made = Vault.create(open_store(url), key)
    assert Vault.open(open_store(url), key).id == made.id
    first = {head.split("\r\n")[0] for head in scene.proxy.asked}
    if scene.scheme == "https":
        assert first == {f"CONNECT {HOST}:443 HTTP/1.1"}
    else:
        assert first
        assert all(f" http://{HOST}/" in line for line in first)
    assert all(LOGIN in head.lower() for head in scene.proxy.asked)


def test_what_no_proxy_lists_is_reached_directly(scene: Scene) -> None:
    scene.put_at(f"127.0.0.1:{scene.port}")
    scene.patch.setenv("NO_PROXY", "127.0.0.1")
    found = open_store(f"{scene.cloud.url}/direct-{scene.scheme}")
    found.put("one", [b"x"])
    assert bytes(found.get("one")) == b"x"
    assert scene.proxy.asked == []


def test_a_proxy_that_is_away_is_trouble_with_the_network(scene: Scene) -> None:
    scene.proxy.close()
    with pytest.raises(FarshoreError, match="did not answer"):
        open_store(f"{scene.cloud.url}/away").get("one")
