"""A vault in a storage account, opened by each identity that Azure has: Azurite over TLS, which takes a bearer's token
only if its claims are right, and a login service that remembers what it was asked for.

What Azurite does not do is look whether a token was signed by Azure.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from azure.storage.blob import generate_container_sas
from tests.azure.running import signed_pair
from tests.contract import doubles

from farshore.model.errors import Forbidden, Malformed, Unreachable
from farshore.vault.promises import check_store
from farshore.vault.stores.registry import open_store
from farshore.vault.stores.tier import is_premium

TENANT, CLIENT = "99999999-2222-3333-4444-555555555555", "77777777-2222-3333-4444-555555555555"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Login(BaseHTTPRequestHandler):
    """Azure's login service, and the metadata service of its machines."""

    audience = "https://storage.azure.com"
    asked: dict[str, str]

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        Login.asked = {name: values[0] for name, values in form.items()}
        self._answer()

    def do_GET(self) -> None:
        Login.asked = {"path": self.path, "metadata": self.headers.get("metadata", "")}
        base = f"https://{self.headers['Host']}/{TENANT}"
        if self.path.endswith("openid-configuration"):
            ends = {"token_endpoint": "oauth2/v2.0/token", "authorization_endpoint": "oauth2/v2.0/authorize"}
            self._say({"issuer": f"{base}/v2.0", **{name: f"{base}/{end}" for name, end in ends.items()}})
        else:
            self._answer()

    def _answer(self) -> None:
        until = str(int(time.time()) + 3600)
        self._say({"access_token": token(Login.audience), "token_type": "Bearer", "expires_in": 3600,
                   "expires_on": until, "resource": "https://storage.azure.com"})  # fmt: skip

    def _say(self, content: Mapping[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def token(audience: str) -> str:
    """Of the storage service, as Azurite looks at it: its claims, and no signature."""
    now = int(time.time())
    claims = {"aud": audience, "iss": f"https://sts.windows.net/{TENANT}/", "iat": now - 9, "nbf": now - 9}
    parts = ({"alg": "RS256", "typ": "JWT"}, {**claims, "exp": now + 3600})
    words = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*words, "c2ln"])


@dataclass(frozen=True)
class World:
    """A store over TLS, and where identities are shown; ``secrets``: what opens it without one."""

    login: str
    metadata: str
    folder: Path
    own: Path
    environment: Mapping[str, str]
    secrets: Mapping[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("identities")
    authority, own = signed_pair(folder)
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Login) for _ in range(2)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    servers[0].socket = context.wrap_socket(servers[0].socket, server_side=True)
    threads = [threading.Thread(target=one.serve_forever) for one in servers]
    for thread in threads:
        thread.start()
    login, metadata = (one.server_address[1] for one in servers)
    try:
        with doubles.azurite(tls=(authority, own)) as (_, known):
            kept = {name: known[name] for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ENDPOINT")}
            trusted = {"SSL_CERT_FILE": str(authority), "REQUESTS_CA_BUNDLE": str(authority)}
            yield World(
                f"https://127.0.0.1:{login}", f"http://127.0.0.1:{metadata}/token", folder, own,
                {**kept, **trusted}, {"key": known["AZURE_STORAGE_ACCOUNT_KEY"], "sas": _sas(known)},
            )  # fmt: skip
    except FileNotFoundError as missing:
        pytest.skip(f"Azurite cannot be started here: {missing}")
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def _sas(known: Mapping[str, str]) -> str:
    name, key = known["AZURE_STORAGE_ACCOUNT_NAME"], known["AZURE_STORAGE_ACCOUNT_KEY"]
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    return generate_container_sas(name, doubles.BUCKET, account_key=key, permission="racwdl", expiry=until)


def with_secret(world: World) -> dict[str, str]:
    return {"AZURE_CLIENT_SECRET": "of-the-tests", **principal(world)}


def principal(world: World) -> dict[str, str]:
    return {"AZURE_CLIENT_ID": CLIENT, "AZURE_TENANT_ID": TENANT, "AZURE_AUTHORITY_HOST": world.login}


def by_workload(world: World) -> dict[str, str]:
    (world.folder / "federated").write_text("of-the-cluster")
    return {"AZURE_FEDERATED_TOKEN_FILE": str(world.folder / "federated"), **principal(world)}


def by_cli(world: World) -> dict[str, str]:
    az = world.folder / "az"
    said = {"accessToken": token(Login.audience), "expiresOn": "2099-01-01 00:00:00.000000", "subscription": "s",
            "tenant": "t", "tokenType": "Bearer"}  # fmt: skip
    az.write_text(f"#!/bin/sh\nprintf '%s' '{json.dumps(said)}'\n")
    az.chmod(0o755)
    return {"AZURE_USE_AZURE_CLI": "true", "PATH": f"{world.folder}:/usr/bin:/bin"}


IDENTITIES: dict[str, tuple[Callable[[World], dict[str, str]], dict[str, str]]] = {
    "shared key": (lambda world: {"AZURE_STORAGE_ACCOUNT_KEY": world.secrets["key"]}, {}),
    "sas": (lambda world: {"AZURE_STORAGE_SAS_TOKEN": world.secrets["sas"]}, {}),
    "secret": (with_secret, {"client_id": CLIENT, "client_secret": "of-the-tests"}),
    "certificate": (
        lambda world: {"AZURE_CLIENT_CERTIFICATE_PATH": str(world.own), **principal(world)},
        {"client_id": CLIENT, "client_assertion_type": _ASSERTION},
    ),
    "workload": (by_workload, {"client_assertion": "of-the-cluster", "client_assertion_type": _ASSERTION}),
    "managed": (lambda world: {"AZURE_IDENTITY_ENDPOINT": world.metadata}, {"metadata": "true"}),
    "cli": (by_cli, {}),
}
"""What the environment names, and what the login service is asked with then."""


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, world: World) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    Login.asked, Login.audience = {}, "https://storage.azure.com"
    return monkeypatch


@pytest.mark.parametrize("identity", IDENTITIES)
def test_a_vault_s_store_is_opened_by(identity: str, world: World, clean: pytest.MonkeyPatch) -> None:
    named, asked = IDENTITIES[identity]
    for name, value in named(world).items():
        clean.setenv(name, value)
    store = open_store(f"az://{doubles.BUCKET}/{identity.replace(' ', '-')}")
    check_store(store)
    store.put("chunks/one", [b"data"])
    assert bytes(store.get("chunks/one")) == b"data"
    assert Login.asked.items() >= asked.items()
    assert bool(Login.asked) == bool(asked)


@pytest.mark.parametrize(("identity", "premium"), [("shared key", False), ("sas", None)])
def test_the_account_says_of_what_performance_it_is(
    identity: str, premium: bool | None, world: World, clean: pytest.MonkeyPatch
) -> None:
    """A SAS signs nothing. With a token the service gives a key to sign with, which Azurite does not."""
    for name, value in IDENTITIES[identity][0](world).items():
        clean.setenv(name, value)
    store = open_store(f"az://{doubles.BUCKET}/of-{identity.replace(' ', '-')}")
    store.put("vault.farshore", [b"x"])
    assert is_premium(store.url) is premium


def test_a_token_for_something_else_opens_nothing(world: World, clean: pytest.MonkeyPatch) -> None:
    """The control: Azurite does look."""
    for name, value in with_secret(world).items():
        clean.setenv(name, value)
    Login.audience = "https://management.azure.com"
    with pytest.raises((Forbidden, Unreachable)):
        check_store(open_store(f"az://{doubles.BUCKET}/wrong"))


def test_a_certificate_that_is_none_is_named(world: World, clean: pytest.MonkeyPatch) -> None:
    clean.setenv("AZURE_CLIENT_CERTIFICATE_PATH", str(world.folder / "authority.pem"))
    with pytest.raises(Malformed, match="AZURE_TENANT_ID"):
        open_store("az://any")
    for name, value in principal(world).items():
        clean.setenv(name, value)
    with pytest.raises(Malformed, match="no certificate with its key") as raised:
        open_store("az://any")
    assert "RSA key" in raised.value.remedy
