"""A vault in an object store behind an HTTP proxy: TLS goes through it by CONNECT, and NO_PROXY is heeded.

What the environment says is read when a store is opened, by the library that speaks to it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from tests.crash.process_server.faulty_s3 import FaultyStore
from tests.scenarios.client.test_proxies import Proxy
from tests.scenarios.client.test_transport import Authority, pem

from farshore.model.errors import FarshoreError
from farshore.vault import OwnerKey, Vault
from farshore.vault.stores.registry import open_store

VARIABLES = ("https_proxy", "http_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture
def behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FaultyStore, Proxy]]:
    """A store that speaks TLS as s3.test, a name that only the proxy knows, and on the loopback."""
    authority = Authority()
    names = (x509.DNSName("s3.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    certificate, key = authority.issue(*names)
    for name, text in (("authority", pem(authority.certificate)), ("certificate", certificate), ("key", key)):
        (tmp_path / name).write_text(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    store = FaultyStore()
    server = store._server
    server.socket = context.wrap_socket(server.socket, server_side=True)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    monkeypatch.setenv("AWS_TIMEOUT", "10 seconds")
    monkeypatch.setenv("AWS_ENDPOINT", "https://s3.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority"))
    proxy = Proxy(server.server_address[1])
    monkeypatch.setenv("HTTPS_PROXY", f"http://dr:pass%20word@127.0.0.1:{proxy.port}")
    with store:
        yield store, proxy
    with contextlib.suppress(OSError):  # a test may have closed it
        proxy.close()


def test_a_vault_is_made_and_read_through_the_proxy(behind: tuple[FaultyStore, Proxy], tmp_path: Path) -> None:
    store, proxy = behind
    key = OwnerKey.generate_file(tmp_path / "vault.key")
    made = Vault.create(open_store(f"{store.url}/vault"), key)
    assert Vault.open(open_store(f"{store.url}/vault"), key).id == made.id
    assert store.objects
    assert {line.split("\r\n")[0] for line in proxy.asked} == {"CONNECT s3.test:443 HTTP/1.1"}
    assert all("Proxy-Authorization: Basic ZHI6cGFzcyB3b3Jk".lower() in line.lower() for line in proxy.asked)


def test_what_no_proxy_lists_is_reached_directly(
    behind: tuple[FaultyStore, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, proxy = behind
    monkeypatch.setenv("AWS_ENDPOINT", f"https://127.0.0.1:{store._server.server_address[1]}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = open_store(f"{store.url}/vault")
    found.put("one", [b"x"])
    assert bytes(found.get("one")) == b"x"
    assert proxy.asked == []


def test_a_proxy_that_is_away_is_trouble_with_the_network(
    behind: tuple[FaultyStore, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, proxy = behind
    proxy.close()
    with pytest.raises(FarshoreError, match="did not answer"):
        open_store(f"{store.url}/vault").get("one")
    assert not store.objects
