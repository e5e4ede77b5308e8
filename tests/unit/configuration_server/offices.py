"""An installation in a temporary folder whose API is called in process: no sockets, a clock that tests move."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.protection.catalogs import NOW, fresh_catalog

from farshore.api_types.jobs import Job
from farshore.api_types.users import Role
from farshore.catalog import users
from farshore.catalog.database import Catalog
from farshore.catalog.tables import UserRow
from farshore.clock import utc
from farshore.configuration_server.application import create_application
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.configuration_server.pki.authority import Authority, private_pem
from farshore.configuration_server.pki.issuing import Issuer
from farshore.configuration_server.sealing import SecretSealer
from farshore.configuration_server.services import Services
from farshore.configuration_server.settings import Settings
from farshore.configuration_server.sites import OpenSites
from farshore.configuration_server.vault_access import FixedVaultAccess
from farshore.configuration_server.web.authenticators import Authenticator, ClientCertificate
from farshore.configuration_server.web.limits import RequestLimits
from farshore.configuration_server.web.protocol import with_peer
from farshore.delivery.served import ServedDelivery
from farshore.export.settings import ExportSettings
from farshore.model.errors import NotFound
from farshore.model.states import JobState
from farshore.protection.push.signing import ReleaseKey
from farshore.recovery.context import RecoveryContext
from farshore.recovery.readiness import ReadinessWatch
from farshore.sites.port import Way


@dataclass
class MovableClock:
    time: int = NOW

    def now(self) -> int:
        return self.time

    def monotonic(self) -> float:
        return self.time / 1e9


class NoExports:
    """farshore.delivery.served.Exports, of which nothing is asked: jobs are only noted here."""

    def start(self, settings: ExportSettings) -> None:
        raise NotImplementedError

    def stop(self, folder: Path) -> None:
        raise NotImplementedError

    def serving(self, folder: Path) -> bool:
        raise NotImplementedError

    def hydrate(self, folder: Path) -> None:
        raise NotImplementedError


class NotedJobs(JobEngine):
    """Notes what was started and runs nothing."""

    def __init__(self) -> None:
        self.started: list[tuple[str, dict[str, Any]]] = []

    def start(self, kind: str, request: dict[str, Any], job: Any = None) -> Job:
        self.started.append((kind, request))
        number = job or f"job-{len(self.started)}"
        return Job(id=number, kind=kind, subject=str(request["subject"]), state=JobState.RUNNING, created=NOW)

    def show(self, job: Any) -> Job:
        raise NotFound(f"There is no job {job}.", remedy="-")

    def listed(self, limit: int = 100, parent: Any = None) -> list[Job]:
        return []

    def recover(self, executor: str) -> list[Job]:
        raise NotFound(f"Server {executor} has no unfinished jobs.", remedy="-")


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    read: bool = False
    """Whether anything of the request's body was read."""

    @property
    def code(self) -> str:
        return str(self.body["type"]).removeprefix("urn:farshore:")


class Office:
    """The API of one installation, and certificates to call it with."""

    def __init__(self, folder: Path, catalog: Catalog | None = None) -> None:
        self.clock = MovableClock()
        self.jobs = NotedJobs()
        authority = Authority.create("test authority", utc(self.clock))
        catalog = catalog or fresh_catalog(folder)
        release_key = ReleaseKey(folder / "release", folder / "release" / "release.key")
        release_key.ensure()
        issuer = Issuer(authority, self.clock)
        self.authenticators: list[Authenticator] = [ClientCertificate(issuer)]
        recovery = RecoveryContext(
            catalog=catalog,
            clock=self.clock,
            folder=folder / "failovers",
            vault_url="memory:///",
            vault_key=str,
            site=OpenSites(catalog, SecretSealer(bytes(32)), folder / "sites"),
            deliveries={Way.SERVED: ServedDelivery(NoExports())},
            sleep=lambda _seconds: None,
        )
        self.services = Services(
            settings=Settings(home=folder, advertise=("10.0.2.2",), port=8443),
            catalog=catalog,
            issuer=issuer,
            vault=FixedVaultAccess("memory:///"),
            jobs=self.jobs,
            sealer=SecretSealer(bytes(32)),
            clock=self.clock,
            limits=RequestLimits(catalog, self.clock),
            authenticators=self.authenticators,
            release_key=release_key,
            recovery=recovery,
            readiness=ReadinessWatch(recovery),
            gather_seconds=0.0,
        )
        self.app = create_application(self.services)

    def close(self) -> None:
        self.services.catalog.close()

    def certificate(self, kind: Kind, name: str) -> dict[str, Any]:
        """A certificate on record, as TLS would show it."""
        with self.services.catalog.writing() as tx:
            pem, _ = self.services.issuer.issue(tx, Identity(kind, name))
        return shown(pem)

    def user(self, name: str, role: Role) -> dict[str, Any]:
        with self.services.catalog.writing() as tx:
            users.add(tx, UserRow(name=name, role=role.value, created=NOW))
        return self.certificate(Kind.USER, name)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        certificate: dict[str, Any] | None = None,
        raw: bytes | None = None,
        client: str = "192.0.2.1",
        cut: bool = False,
        headers: dict[str, str] | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Answer:
        """One request, with whatever certificate was shown; with ``cut`` the connection ends within its body, and
        ``meanwhile`` is called before its body comes."""
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        application = with_peer(self.app, certificate)
        return asyncio.run(_request(application, method, path, data, client, cut, headers or {}, meanwhile))


async def _request(
    app: Any,
    method: str,
    path: str,
    data: bytes,
    client: str,
    cut: bool,
    more: dict[str, str],
    meanwhile: Callable[[], object],
) -> Answer:
    plain, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": plain,
        "raw_path": plain.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (b"content-type", b"application/json"),
            (b"host", b"test"),
            *((name.lower().encode(), value.encode()) for name, value in more.items()),
        ],
        "client": (client, 1),
        "server": ("127.0.0.1", 8443),
    }
    sent = [{"type": "http.request", "body": data, "more_body": cut}]
    got: list[dict[str, Any]] = []
    read = False

    async def receive() -> dict[str, Any]:
        nonlocal read
        if not read:
            meanwhile()
        read = True
        if not sent and not cut:
            await asyncio.Event().wait()  # the caller stays to hear the answer
        return sent.pop() if sent else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        got.append(message)

    try:
        await app(scope, receive, send)
    except Exception:
        # Starlette answers a defect and raises it again for the server's log; without an answer it is a test's fault.
        if not got:
            raise
    start = got[0]
    content = b"".join(message.get("body", b"") for message in got[1:])
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    is_json = "json" in headers.get("content-type", "")
    body = json.loads(content) if content and is_json else content.decode() or None
    return Answer(start["status"], body, headers, read)


def shown(pem: str) -> dict[str, Any]:
    """A PEM certificate in the form of ssl.SSLObject.getpeercert()."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    serial = f"{certificate.serial_number:X}"
    units = certificate.subject.get_attributes_for_oid(x509.oid.NameOID.ORGANIZATIONAL_UNIT_NAME)
    return {
        "subject": tuple((("organizationalUnitName", str(unit.value)),) for unit in units),
        "subjectAltName": tuple(("URI", uri) for uri in uris),
        "serialNumber": serial if len(serial) % 2 == 0 else f"0{serial}",
    }


def signing_request(name: str = "whoever", key: Any = None) -> str:
    """A PEM PKCS#10 request."""
    used = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(used, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def signing_request_and_key() -> tuple[str, str]:
    """A PEM PKCS#10 request and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    return signing_request(key=key), private_pem(key)
