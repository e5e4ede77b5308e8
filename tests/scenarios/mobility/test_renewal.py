"""A renewed certificate is shown at once, on connections that were open before, by the heartbeat and by the stream."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from farshore.api_types.machines import Authority as Authorities
from farshore.api_types.machines import Desired, Enrolment, EpochGrant, EpochKind, Heartbeat, RenewalRequest
from farshore.api_types.streams import StreamStatus
from farshore.client.credentials import Credentials
from farshore.client.machine_self import MachineSelf
from farshore.client.transport import Transport
from farshore.clock import SystemClock
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.pki.authority import LEAF_DAYS, Authority
from farshore.mobility.control.renewal import RENEW_BEFORE, Renewal
from farshore.mobility.settings import Settings
from farshore.mobility.stream.planes import Planes
from farshore.model.errors import Unreachable
from farshore.model.identifiers import MachineId
from farshore.process_server.listening.exchange import Answer, Request
from farshore.process_server.listening.listener import Listener
from farshore.process_server.listening.peer import server_context

OLD, RENEWED = "the-old-certificate", "the-renewed-certificate"
NOW = datetime.datetime.now(datetime.UTC)


class Servers:
    """Configuration server and process server, one program: it notes which certificate each request came with."""

    def __init__(self, folder: Path, age: datetime.timedelta) -> None:
        self.authority = Authority.create("test authority", NOW - datetime.timedelta(days=1000))
        self.settings = Settings(state=folder)
        self.seen: list[tuple[str, str]] = []
        self.silent = False
        self.listener, self.data = self.listening(Kind.SERVER), self.listening(Kind.PROCESS_SERVER)
        issued, key = self.authority.issue(Identity(Kind.MACHINE, OLD), NOW - age)
        self.url = f"https://127.0.0.1:{self.listener.address[1]}"
        Credentials(self.url, self.authority.certificate, issued.certificate, key).save(self.settings.credentials)
        self.control = MachineSelf(Transport.from_credentials(Credentials.load(self.settings.credentials)))
        self.planes = Planes(MachineId("m"), self.settings.credentials)
        users = (self.control.use, self.planes.use)
        self.renewal = Renewal(self.settings, self.control, users, SystemClock())

    def listening(self, kind: Kind) -> Listener:
        server, key = self.authority.issue(Identity(kind, "server"), NOW, ["127.0.0.1"])
        context = server_context(self.authority.certificate, server.certificate, key)
        return Listener("127.0.0.1", 0, context, self, workers=2)

    def __call__(self, request: Request) -> Answer:
        assert request.peer is not None
        body = bytes(request.body(1 << 20)) if request.length else b""
        last = request.path.rpartition("/")[2]
        if self.silent:
            raise Unreachable("not now", remedy="")
        if last == "authorities":
            found = Authorities(certificate=self.authority.certificate)
            return Answer(200, "application/json", [found.model_dump_json().encode()])
        self.seen.append((last, request.peer.name))
        if last == "certificate":
            asked = x509.load_pem_x509_csr(RenewalRequest.model_validate_json(body).request.encode())
            issued = self.authority._sign(asked.public_key(), Identity(Kind.MACHINE, RENEWED), NOW, (), LEAF_DAYS)
            made = Enrolment(machine="m", certificate=issued.certificate, authority=self.authority.certificate)
            return Answer(200, "application/json", [made.model_dump_json().encode()])
        if last == "heartbeat":
            return Answer(200, "application/json", [Desired(protect=False).model_dump_json().encode()])
        stream = StreamStatus(machine="m", epoch=1, next_journal=1, next_base=1, base_complete=False)
        return Answer(200, "application/json", [stream.model_dump_json().encode()])

    def talk(self) -> list[tuple[str, str]]:
        """One heartbeat, one word with the process server: (call, certificate)."""
        self.seen.clear()
        self.control.heartbeat(Heartbeat(run="r", version="1"))
        self.plane.status()
        return self.seen

    def __enter__(self) -> Servers:
        self.listener.start()
        self.data.start()
        url = f"https://127.0.0.1:{self.data.address[1]}"
        grant = EpochGrant(epoch=1, kind=EpochKind.INITIAL, process_server=url, hash_key="")
        self.plane = self.planes(grant)
        return self

    def __exit__(self, *_: object) -> None:
        self.plane.close()
        self.control.close()
        self.data.stop()
        self.listener.stop()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with Servers(tmp_path, datetime.timedelta(days=LEAF_DAYS) - RENEW_BEFORE + datetime.timedelta(days=1)) as made:
        yield made


def test_connections_in_use_show_the_renewed_certificate(servers: Servers) -> None:
    assert servers.talk() == [("heartbeat", OLD), ("1", OLD)]
    assert servers.renewal.renew_if_old()
    assert servers.talk() == [("heartbeat", RENEWED), ("1", RENEWED)]
    assert not servers.renewal.renew_if_old(), "once is enough"


def test_a_renewal_that_fails_leaves_the_old_certificate_in_use(servers: Servers) -> None:
    before = servers.settings.credentials.read_bytes()
    servers.silent = True
    with pytest.raises(Unreachable):
        servers.renewal.renew_if_old()
    servers.silent = False
    assert servers.settings.credentials.read_bytes() == before
    assert servers.talk() == [("heartbeat", OLD), ("1", OLD)]


def test_a_young_certificate_is_left_alone(tmp_path: Path) -> None:
    with Servers(tmp_path, datetime.timedelta(days=1)) as servers:
        assert not servers.renewal.renew_if_old()
        assert servers.talk() == [("heartbeat", OLD), ("1", OLD)]
