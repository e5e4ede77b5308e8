"""A real configuration server, as a process of its own, on a free port of the loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.unit.configuration_server.offices import signing_request_and_key
from tests.waiting import PATIENCE

from farshore.api_types.machines import (
    Description,
    Desired,
    Disk,
    Enrolment,
    EnrolmentRequest,
    EpochGrant,
    EpochKind,
    EpochRequest,
    Heartbeat,
    TokenRequest,
)
from farshore.api_types.servers import EpochReport, Registration, ServerReport, ServerStatus, StreamReport
from farshore.client.credentials import Credentials, client_context
from farshore.client.enrolment import enrol
from farshore.client.machine_self import MachineSelf
from farshore.client.management import Management
from farshore.client.process_server_self import ProcessServerSelf
from farshore.client.transport import Transport
from farshore.lab.ports import free_port
from farshore.model.errors import TryLater
from farshore.model.machine import Firmware

SETUP = [sys.executable, "-m", "farshore.configuration_server.setup"]
PROGRAM = [sys.executable, "-m", "farshore.configuration_server"]


def description() -> Description:
    disk = Disk(number=0, name="vda", size=1 << 30, boot=True)
    return Description(
        hostname="db1",
        firmware=Firmware.UEFI,
        processors=2,
        memory=1 << 30,
        operating_system="Debian 12",
        kernel="6.1.0-18-amd64",
        architecture="x86_64",
        disks=[disk],
    )


class Server:
    """An installation in ``home`` and its configuration server."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        ports = ["--port", str(self.port), "--process-server-port", str(free_port())]
        subprocess.run([*SETUP, "--home", str(home), "--listen", "0.0.0.0", *ports], check=True)

    def start(self) -> None:
        log = (self.home / "server.log").open("ab")
        with log:
            self.process = subprocess.Popen([*PROGRAM, "--home", str(self.home)], stdout=log, stderr=log)
        transport = self.transport()
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                transport.get("/v1/status", ServerStatus)
                break
            except TryLater:
                if self.process.poll() is not None or time.monotonic() > give_up:
                    raise AssertionError((self.home / "server.log").read_text()) from None
                time.sleep(0.1)
        transport.close()

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            os.kill(self.process.pid, number)
            self.process.wait(PATIENCE)
            self.process = None

    def credentials(self) -> Credentials:
        return Credentials.load(self.home / "admin.json")

    def transport(self, certificate: str = "", key: str = "") -> Transport:
        """Certificate and key as given; none by default."""
        known = self.credentials()
        return Transport(known.url, client_context(known.authority, certificate, key))

    def admin(self) -> Management:
        return Management(Transport.from_credentials(self.credentials()))

    def process_server(self) -> ProcessServerSelf:
        return ProcessServerSelf(
            Transport.from_credentials(Credentials.load(self.home / "process-server" / "credentials.json"))
        )


class Agent:
    """A machine that enrols and reports, and has no disks."""

    def __init__(self, server: Server) -> None:
        api = server.admin()
        token = api.create_token(TokenRequest())
        request, self.key = signing_request_and_key()
        url = server.credentials().url
        asked = EnrolmentRequest(token=token.token, request=request, description=description())
        self.enrolment: Enrolment = enrol(url, token.authority_fingerprint, asked)
        self.calls = MachineSelf(server.transport(self.enrolment.certificate, self.key))
        api.close()

    def open_epoch(self) -> EpochGrant:
        return self.calls.open_epoch(EpochRequest(run="r1", kind=EpochKind.INITIAL, description=description()))

    def beat(self, **values: object) -> Desired:
        return self.calls.heartbeat(Heartbeat.model_validate({"run": "r1", "version": "test", **values}))


def register(server: Server) -> ProcessServerSelf:
    calls = server.process_server()
    calls.register(Registration(url="https://127.0.0.1:1", version="test"))
    calls.report(ServerReport(url="https://127.0.0.1:1", version="test", spool_bytes=0, spool_limit=1 << 30))
    return calls


def whole_epoch(machine: str, received: int, stored: int) -> ServerReport:
    """A report by which epoch 1 is consistent."""
    stream = StreamReport(
        machine=machine,
        epoch=1,
        received=received,
        stored=stored,
        stored_time=time.time_ns(),
        spooled_bytes=0,
        lag_spool=0,
        lag_seal=0,
        lag_store=0,
    )
    whole = EpochReport(machine=machine, epoch=1, consistent_from=1, time=time.time_ns())
    return ServerReport(
        url="https://127.0.0.1:1",
        version="test",
        spool_bytes=0,
        spool_limit=1 << 30,
        streams=[stream],
        epochs=[whole],
    )
