"""Alerts reach people: through real servers for mail and HTTP on the loopback, from the API's call to what arrives."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import ipaddress
import json
import logging
import ssl
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import NOW, SECOND, add_machine

from farshore.api_types.events import Severity
from farshore.api_types.users import Role
from farshore.catalog import alert_channels, events, policies
from farshore.catalog.tables import MachineRow
from farshore.lab.ports import free_ports
from farshore.model.states import MachineState
from farshore.protection.alerting.telling import FAILING, Telling
from farshore.protection.watch import AlertCondition, reconcile

APPRISE = pytest.mark.filterwarnings("ignore::DeprecationWarning")
"""apprise 2.3 uses what is deprecated in Python 3.11."""
PASSWORD = "pa55word-of-mail"
RPO = AlertCondition("rpo-exceeded", "machine/1", Severity.ERROR, "The newest point of web1 is old.", "See web1.")
SILENT = AlertCondition("agent-silent", "machine/2", Severity.ERROR, "The service of db1 does not report.", "See db1.")
SMALL = AlertCondition("hint", "machine/3", Severity.INFORMATION, "A hint.", "-")


class Mailbox:
    """Keeps what it is sent; refuses recipients in ``unknown``."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.unknown: set[str] = set()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if address in self.unknown:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"


class Desk:
    """An installation, its channels and its watch, moved by hand."""

    def __init__(self, folder: Path) -> None:
        self.office = Office(folder)
        self.admin = self.office.user("boss", Role.CONTRIBUTOR)
        self.telling = self.another()

    def another(self) -> Telling:
        services = self.office.services
        return Telling(services.catalog, services.clock, "https://dr:443", services.sealer.open)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return self.office.call(method, path, body, self.admin)

    def add(self, kind: str, secret: str = "", **more: Any) -> Any:
        answer = self.call("POST", "/v1/alert-channels", {"name": "ops", "kind": kind, "secret": secret, **more})
        assert answer.status == 201, answer.body
        return answer.body

    def watch(self, *present: AlertCondition) -> None:
        services = self.office.services
        services.catalog.write(lambda tx: reconcile(tx, present, services.clock.now()))

    def later(self, seconds: int) -> None:
        self.office.clock.time += seconds * SECOND

    def round(self, *present: AlertCondition, seconds: int = 20) -> None:
        """The watch looks; a while later the channels are told."""
        self.watch(*present)
        self.later(seconds)
        self.telling.tell()

    def channel(self) -> Any:
        (found,) = self.call("GET", "/v1/alert-channels").body
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.office.close()


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[tuple[Mailbox, dict[str, Any]]]:
    """A mail server with STARTTLS and a user, and the settings for it."""
    box, (port,) = Mailbox(), free_ports(1)
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def login(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"dr", PASSWORD.encode())
        return AuthResult(success=right, handled=False)

    controller = Controller(
        box, hostname="127.0.0.1", port=port, tls_context=context, require_starttls=True, authenticator=login,
        auth_required=True,
    )  # fmt: skip
    controller.start()
    settings = {"host": "127.0.0.1", "port": port, "from": "dr@example.com", "to": "ops@example.com, it@example.com"}
    yield box, {**settings, "user": "dr", "ca": str(certificate)}
    controller.stop()


def self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "mail")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "mail.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


class Hooks:
    """A web server that notes what it is sent and answers ``status``."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict[str, str], bytes]] = []
        self.status = 204
        noted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                noted.calls.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(noted.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    made = Hooks()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_mail_arrives_grouped_repeated_until_acknowledged_and_when_it_is_over(
    desk: Desk, mailbox: tuple[Mailbox, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="farshore")
    box, settings = mailbox
    shown = desk.add("mail", PASSWORD, settings=settings, repeat_every=3600)
    assert PASSWORD not in json.dumps(shown) + json.dumps(desk.channel())
    with desk.office.services.catalog.reading() as tx:
        assert PASSWORD.encode() not in alert_channels.get(tx, "ops").secret
    assert desk.call("POST", "/v1/alert-channels/ops/test").status == 200
    assert box.mails.pop()["Subject"] == "[Farshore] Test of an alert channel"
    desk.round(RPO, SILENT, SMALL)
    (mail,) = box.mails
    assert mail["Subject"] == "[Farshore] Alerts: 2 new"
    assert (mail["To"], mail["Auto-Submitted"]) == ("ops@example.com, it@example.com", "auto-generated")
    text = mail.get_content()
    assert RPO.message in text
    assert SILENT.remedy in text
    assert SMALL.message not in text, "it is below the channel's severity"
    desk.round(RPO, SILENT)
    assert len(box.mails) == 1
    desk.round(RPO, SILENT, seconds=3600)
    assert box.mails[1]["Subject"] == "[Farshore] Alerts: 2 still open"
    alerts = desk.call("GET", "/v1/alerts").body
    seen = desk.call("POST", "/v1/alerts/acknowledgements", {"alerts": [one["id"] for one in alerts]})
    assert {one["acknowledged_by"] for one in seen.body} == {"boss"}
    desk.round(RPO, SILENT, seconds=7200)
    assert len(box.mails) == 2
    desk.round(SILENT)
    assert box.mails[2]["Subject"] == f"[Farshore] Over: {RPO.message}"
    desk.round(SILENT, seconds=7200)
    assert len(box.mails) == 3
    assert PASSWORD not in caplog.text


def test_a_mail_server_that_fails_is_an_alert_and_loses_nothing(
    desk: Desk, mailbox: tuple[Mailbox, dict[str, Any]]
) -> None:
    box, settings = mailbox
    desk.add("mail", "wrong", settings=settings)
    failed = desk.call("POST", "/v1/alert-channels/ops/test")
    assert (failed.code, "does not accept the login of dr" in failed.body["detail"]) == ("refused", True)
    desk.round(RPO)
    (condition,) = desk.telling.conditions()
    assert (condition.kind, condition.subject) == (FAILING, "alert-channel/ops")
    assert "does not accept" in desk.channel()["trouble"]
    assert desk.call("DELETE", "/v1/alert-channels/ops").status == 204
    desk.add("mail", PASSWORD, settings=settings)
    box.unknown = {"it@example.com"}
    desk.round(RPO)
    assert len(box.mails) == 1
    assert "does not take mail for it@example.com" in desk.channel()["trouble"]
    box.unknown |= {"ops@example.com"}
    assert "it@example.com, ops@example.com" in desk.call("POST", "/v1/alert-channels/ops/test").body["detail"]
    strangers = {name: value for name, value in settings.items() if name != "ca"}
    desk.call("DELETE", "/v1/alert-channels/ops")
    desk.add("mail", PASSWORD, settings=strangers)
    assert "not trusted" in desk.call("POST", "/v1/alert-channels/ops/test").body["detail"]


def test_a_webhook_is_signed_and_tried_again(desk: Desk, hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="farshore")
    url = f"http://127.0.0.1:{hooks.port}/hook-token-1"
    key = desk.add("webhook", url)["signing_key"]
    assert url not in json.dumps(desk.channel()) + json.dumps(desk.call("GET", "/v1/events").body)
    hooks.status = 503
    desk.round(RPO)
    assert "answered 503" in desk.channel()["trouble"]
    assert "hook-token-1" not in desk.channel()["trouble"]
    desk.telling.tell()
    assert len(hooks.calls) == 1, "after a failure it waits"
    hooks.status = 204
    desk.round(RPO)
    assert desk.channel()["trouble"] == ""
    (_, _, headers, body) = hooks.calls[-1]
    raw = base64.b64decode(key.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac.digest(raw, signed, hashlib.sha256)).decode()
    (alert,) = json.loads(body)["data"]["alerts"]
    assert (alert["state"], alert["kind"]) == ("raised", RPO.kind)
    assert desk.channel()["delivered"] == desk.office.clock.now()
    hooks.status = 302
    assert "answered 302" in desk.call("POST", "/v1/alert-channels/ops/test").body["detail"]
    for secret in ("hook-token-1", key):
        assert secret not in caplog.text


def test_of_two_servers_one_sends_and_a_death_in_between_costs_no_alert(desk: Desk, hooks: Hooks) -> None:
    desk.add("webhook", f"http://127.0.0.1:{hooks.port}/")
    desk.watch(RPO)
    desk.later(20)
    other = desk.another()
    catalog = desk.office.services.catalog
    assert catalog.write(lambda tx: other._claim(tx, "ops")), "it claims, and dies before it has sent"
    desk.telling.tell()
    assert hooks.calls == []
    desk.later(120)
    desk.telling.tell()
    other.tell()
    assert len(hooks.calls) == 1


@APPRISE
def test_a_service_of_apprise_takes_it(desk: Desk, hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="farshore")
    hooks.status = 200
    desk.add("apprise", f"ntfy://token-2@127.0.0.1:{hooks.port}/topic")
    desk.round(RPO)
    assert desk.channel()["trouble"] == ""
    assert RPO.message in hooks.calls[-1][3].decode()
    hooks.status = 500
    failed = desk.call("POST", "/v1/alert-channels/ops/test")
    assert (failed.code, failed.status) == ("unreachable", 503)
    assert "token-2" not in caplog.text + json.dumps(failed.body)


def test_the_heartbeat_url_is_called_while_every_rpo_holds_and_never_else(desk: Desk, hooks: Hooks) -> None:
    desk.add("heartbeat", f"http://127.0.0.1:{hooks.port}/beat", settings={"every": 60})
    desk.telling.beat()
    assert hooks.calls == [], "nothing is protected"
    assert desk.call("POST", "/v1/alert-channels/ops/test").code == "wrong-state"
    with desk.office.services.catalog.writing() as tx:
        machine = add_machine(tx, state=MachineState.PROTECTED.value, newest_point_time=NOW).id
    desk.telling.beat()
    desk.telling.beat()
    assert [call[:2] for call in hooks.calls] == [("GET", "/beat")], "once a minute"
    with desk.office.services.catalog.reading() as tx:
        threshold = policies.every(tx)[0].rpo_threshold
    desk.later(threshold + 60)
    desk.telling.beat()
    assert len(hooks.calls) == 1, "the RPO is broken: silence"
    with desk.office.services.catalog.writing() as tx:
        tx.get_one(MachineRow, machine).newest_point_time = desk.office.clock.now()
    desk.telling.beat()
    assert len(hooks.calls) == 2
    desk.telling.tell()
    assert len(hooks.calls) == 2, "it takes no messages"


def test_only_open_alerts_are_acknowledged(desk: Desk) -> None:
    assert desk.call("POST", "/v1/alerts/acknowledgements", {"alerts": [7]}).code == "not-found"
    assert desk.call("POST", "/v1/alerts/acknowledgements", {"alerts": []}).code == "malformed"
    desk.watch(RPO)
    (alert,) = desk.call("GET", "/v1/alerts").body
    for _ in range(2):
        assert desk.call("POST", "/v1/alerts/acknowledgements", {"alerts": [alert["id"]]}).status == 200
    with desk.office.services.catalog.reading() as tx:
        kinds = [one.kind for one in events.listed(tx)]
    assert kinds.count("alert.acknowledged.rpo-exceeded") == 1
