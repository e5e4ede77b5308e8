"""A real process server process over a real local vault, with a double of the configuration server beside it.

Used by crash tests and benchmarks. The double answers the three calls that a process server makes, over the same
TLS and with certificates of the product's own authority.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from farshore.api_types.machines import Description, EpochKind
from farshore.api_types.servers import (
    MachineKeys,
    ProcessServerSettings,
    Registration,
    ReportAnswer,
    ServerReport,
    StreamGrant,
    StreamName,
)
from farshore.client.credentials import Credentials, client_context
from farshore.client.data_plane import DataPlane
from farshore.client.transport import Transport
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.pki.authority import Authority
from farshore.configuration_server.vault_access import OpenVault
from farshore.model.errors import Fenced, Moved, NotFound
from farshore.model.identifiers import MachineId, new_id
from farshore.process_server.listening.exchange import Answer, Request
from farshore.process_server.listening.listener import Listener
from farshore.process_server.listening.peer import server_context
from farshore.vault.keys.owner_keys import OwnerKey
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault

_STREAM = re.compile(r"/v1/process-servers/self/streams/([0-9a-f-]+)/([0-9]+)")
_KEYS = re.compile(r"/v1/process-servers/self/machines/([0-9a-f-]+)/keys")
_READY_SECONDS = 300.0


@dataclass
class ControlDouble:
    """What a configuration server would know. ``grants`` by (machine, epoch); a fenced one is in ``fenced``."""

    settings: ProcessServerSettings
    vault: OpenVault
    """Where it takes keys from."""
    grants: dict[tuple[str, int], StreamGrant] = field(default_factory=dict)
    fenced: set[tuple[str, int]] = field(default_factory=set)
    reports: list[ServerReport] = field(default_factory=list)
    answer: ReportAnswer = field(default_factory=ReportAnswer)
    """What each report is answered with."""
    asked_rpo: float = 5.0
    """Of every grant."""
    moved: set[tuple[str, int]] = field(default_factory=set)
    """Streams that another process server takes."""

    def __call__(self, request: Request) -> Answer:
        """A Handler."""
        body = bytes(request.body(1 << 24)) if request.length else b""
        if request.path == "/v1/process-servers/self":
            Registration.model_validate_json(body)
            return Answer(200, "application/json", [self.settings.model_dump_json().encode()])
        if request.path == "/v1/process-servers/self/report":
            report = ServerReport.model_validate_json(body)
            self.reports.append(report)
            named = {(one.machine, one.epoch) for one in report.streams}
            named |= {(one.machine, one.epoch) for one in report.released}
            gone = [StreamName(machine=machine, epoch=epoch) for machine, epoch in sorted(named & self.moved)]
            shut = [one for one in report.streams if (one.machine, one.epoch) in self.fenced]
            closed = [StreamName(machine=one.machine, epoch=one.epoch) for one in shut]
            known = {"release": [*self.answer.release, *gone], "closed": [*self.answer.closed, *closed]}
            answer = self.answer.model_copy(update=known)
            return Answer(200, "application/json", [answer.model_dump_json().encode()])
        asked = _KEYS.fullmatch(request.path)
        if asked is not None:
            return Answer(200, "application/json", [self._keys(asked[1]).model_dump_json().encode()])
        found = _STREAM.fullmatch(request.path)
        if found is None:
            raise NotFound(f"no {request.path}", remedy="")
        key = (found[1], int(found[2]))
        if key in self.fenced:
            raise Fenced(f"epoch {key[1]} is closed", remedy="")
        if key in self.moved:
            raise Moved(f"epoch {key[1]} goes elsewhere", remedy="")
        if key not in self.grants:
            raise NotFound(f"no epoch {key}", remedy="")
        return Answer(200, "application/json", [self.grants[key].model_dump_json().encode()])

    def _keys(self, machine: str) -> MachineKeys:
        """Those of a machine that was granted an epoch here once, or has something in the vault."""
        domains = {grant.domain for (one, _), grant in self.grants.items() if one == machine}
        return MachineKeys(
            machine=machine,
            key=self.vault.machine_key(machine),
            chunks=[self.vault.chunk_keys(domain) for domain in sorted(domains or {0})],
        )

    @property
    def last(self) -> ServerReport:
        """The newest report."""
        return self.reports[-1] if self.reports else ServerReport(url="", version="", spool_bytes=0, spool_limit=0)

    def grant(
        self, machine: str, epoch: int, kind: EpochKind, what: Description, parent: int = 0, exactly: int = 0
    ) -> None:
        """Open an epoch; older ones of the machine are closed. ``exactly``: it stands on just this sequence of the
        parent."""
        self.fenced |= {key for key in self.grants if key[0] == machine and key[1] < epoch}
        self.grants[(machine, epoch)] = StreamGrant(
            machine=machine,
            epoch=epoch,
            kind=kind,
            parent_epoch=parent,
            parent_sequence=exactly,
            exact=bool(exactly),
            description=what,
            asked_rpo=self.asked_rpo,
        )


class Rig:
    """Everything in one folder. Use as a context manager. ``beside``: over that one's vault and authority."""

    def __init__(
        self,
        folder: Path,
        *,
        vault_url: str = "",
        beside: Rig | None = None,
        spool_limit: int = 4 << 30,
        seal_every: float = 0.5,
        **settings: object,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        now = datetime.datetime.now(datetime.UTC)
        self.authority: Authority = beside.authority if beside else Authority.create("test authority", now)
        self.vault_url = vault_url or f"file://{folder}/vault"
        if beside is None:
            OwnerKey.generate_file(folder / "owner.key")
            self.vault: Vault = Vault.create(open_store(self.vault_url), OwnerKey.from_file(folder / "owner.key"))
        else:
            self.vault_url, self.vault = beside.vault_url, beside.vault
        given = ProcessServerSettings(
            vault_url=self.vault_url,
            upkeep_key=self.vault.upkeep_key.secret.hex(),
            spool_limit=spool_limit,
            seal_every=seal_every,
        )
        self.control = ControlDouble(given, OpenVault(self.vault_url, self.vault))
        certificate, key = self._issue(Identity(Kind.SERVER, "control"), ["127.0.0.1"])
        self.control_listener = Listener(
            "127.0.0.1", 0, server_context(self.authority.certificate, certificate, key), self.control, workers=4
        )
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._planes: list[DataPlane] = []
        self.serial = ""
        """Of the last certificate that was issued."""

    def __enter__(self) -> Rig:
        self.control_listener.start()
        certificate, key = self._issue(Identity(Kind.PROCESS_SERVER, new_id()), ["127.0.0.1"])
        url = f"https://127.0.0.1:{self.control_listener.address[1]}"
        Credentials(url, self.authority.certificate, certificate, key).save(self.folder / "credentials.json")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for plane in self._planes:
            plane.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.control_listener.stop()

    @property
    def spool(self) -> Path:
        """The spool's folder."""
        return self.folder / "state" / "spool"

    def start(self, *command: str, may_die: bool = False, **environment: str) -> subprocess.Popen[bytes]:
        """Start the process server and wait until it listens. ``command``: what to run instead of its module."""
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        prefix = "FARSHORE_PROCESS_SERVER_"
        variables = {
            "STATE": str(self.folder / "state"),
            "CREDENTIALS": str(self.folder / "credentials.json"),
            "LISTEN": "127.0.0.1",
            "PORT": str(self.port),
            "READY_FILE": str(ready),
            **{name.upper(): str(value) for name, value in self.settings.items()},
        }
        self.process = subprocess.Popen(
            [sys.executable, *(command or ("-m", "farshore.process_server.main"))],
            env={**os.environ, **{prefix + name: value for name, value in variables.items()}, **environment},
        )
        deadline = time.monotonic() + _READY_SECONDS
        while not ready.exists() or not ready.read_text().endswith("\n"):
            if self.process.poll() is not None:
                if may_die:
                    return self.process
                raise RuntimeError(f"the process server ended with {self.process.returncode}")
            if time.monotonic() > deadline:
                raise RuntimeError("the process server does not get ready")
            time.sleep(0.02)
        self.port = int(ready.read_text().split()[1])
        return self.process

    def stop(self) -> None:
        """End the process server cleanly."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(_READY_SECONDS) != 0:
            raise RuntimeError(f"the process server ended with {self.process.returncode}")

    def kill(self) -> None:
        """SIGKILL it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def plane(self, machine: MachineId, epoch: int, *, holder: str | None = None) -> DataPlane:
        """The client of a machine's stream; ``holder``: another machine's certificate."""
        certificate, key = self._issue(Identity(Kind.MACHINE, holder or machine))
        context = client_context(self.authority.certificate, certificate, key)
        made = DataPlane(Transport(f"https://127.0.0.1:{self.port}", context), machine, epoch)
        self._planes.append(made)
        return made

    def cpu_seconds(self) -> float:
        """CPU seconds that the process server has used."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self) -> int:
        """The most memory that the process server has had resident."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]

    def reported_points(self) -> list[dict[str, object]]:
        """Every point that was reported."""
        return [json.loads(point.model_dump_json()) for report in self.control.reports for point in report.points]

    def issue(self, machine: MachineId) -> tuple[str, str]:
        """A machine's certificate and key, PEM texts."""
        return self._issue(Identity(Kind.MACHINE, machine))

    def _issue(self, holder: Identity, names: tuple[str, ...] | list[str] = ()) -> tuple[str, str]:
        issued, key = self.authority.issue(holder, datetime.datetime.now(datetime.UTC), names)
        self.serial = issued.serial
        return issued.certificate, key
