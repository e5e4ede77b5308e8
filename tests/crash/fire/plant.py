"""A whole installation: agent, process servers, configuration server and relay, each a process of its own.

The agent lives in the machine's network namespace, the servers in theirs. Spool, vault and the agent's state (with its
.hrl file) lie on file systems of their own, so that each can be filled. What the vault holds is read by this process
with the owner's key alone, as after a disaster.
"""

from __future__ import annotations

import contextlib
import enum
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.crash.fire import second_server
from tests.crash.fire.azure_store import AzureStore, azure_store
from tests.crash.fire.namespaces import SECOND_ADDRESS, SERVERS_ADDRESS, Namespaces, inside
from tests.crash.fire.object_store import object_store
from tests.crash.fire.processes import Clock, Program
from tests.crash.fire.second_server import SecondServer
from tests.crash.fire.small_disks import small_disk
from tests.crash.fire.spare_disk import SpareDisk
from tests.crash.fire.two_releases import TwoReleases
from tests.crash.process_server.faulty_s3 import FaultyStore
from tests.loopdisks import LoopDisk
from tests.waiting import PATIENCE

from farshore.api_types.jobs import Job
from farshore.api_types.machines import Machine, ProofRequest, TokenRequest
from farshore.api_types.points import PointRequest
from farshore.client.credentials import Credentials
from farshore.client.management import Management
from farshore.client.transport import Transport
from farshore.mobility.capture.pinned import pin_folder_of, unpin
from farshore.model.errors import FarshoreError
from farshore.model.identifiers import MachineId
from farshore.model.point import PointKind
from farshore.model.states import JobState, MachineState
from farshore.vault import MachineVault, OwnerKey, Vault, open_store

API_PORT, DATA_PORT = 8443, 9443
_AGENT = "farshore.mobility.main"
CALM = {"delay": 0, "rate": 0, "cut": 0, "seed": 0}
_MIB = 1 << 20
Answer = TypeVar("Answer")
_ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Layout(enum.Enum):
    """What an installation is made of."""

    SINGLE = "single"
    """One process server, the vault in a folder."""
    PAIR = "pair"
    """Two process servers, the vault in an object store."""
    AZURE = "azure"
    """One process server, the vault in Azurite."""
    ROUNDS = "rounds"
    """As SINGLE, but the machine is protected in rounds, by the bitmap, and its agent is upgraded."""
    UPGRADES = "upgrades"
    """As SINGLE, but the agent is upgraded."""


UPGRADED = (Layout.ROUNDS, Layout.UPGRADES)


@dataclass(frozen=True)
class Protected:
    """The machine. ``disks`` have file systems, ``raw`` has none, ``spare`` is not always there."""

    disks: list[LoopDisk]
    raw: LoopDisk
    spare: SpareDisk
    shelves: list[Path]
    """The file systems that images lie on, by which their disks can be stalled; the raw disk's is the last."""
    agent_fault: str = ""
    """One that is put back into the agent: see faulty_agent.py."""


class Plant:
    """Use as a context manager."""

    def __init__(
        self, home: Path, protected: Protected, layout: Layout = Layout.SINGLE, *, vault_mib: int = 6144
    ) -> None:
        self.home = home
        self._protected = protected
        self.layout = layout
        self.store: FaultyStore | None = None
        self.azure: AzureStore | None = None
        self.second: SecondServer | None = None
        self.disks, self.raw, self.spare = protected.disks, protected.raw, protected.spare
        self.shelves, self.raw_shelf = protected.shelves, protected.shelves[-1]
        self.stall = contextlib.ExitStack()
        """What ends the stall of a disk."""
        self.left_out = False
        self._askers: dict[str, ThreadPoolExecutor] = {}
        """Whether the raw disk was ever not to be protected."""
        self.namespaces = Namespaces()
        self.machine = MachineId("")
        self.trouble = ""
        """Why the API was last asked in vain."""
        self.said: list[str] = []
        """What faults tell of themselves."""
        self.violations: list[str] = []
        """What faults found wrong."""
        self.silent_since = 0.0
        """Since when the agent has been held by clocks.fall_silent."""
        self.agent_state = home / "agent"
        self.handover = self.agent_state / "handover.json"
        self.releases = TwoReleases(home, protected.agent_fault) if layout in UPGRADED else None
        """Of the agent; None: it is run from the sources."""
        self.spool = home / "process-server" / "spool"
        self.vault_folder = home / "vault"
        self.vault_url = f"file://{self.vault_folder}"
        self._sizes = {self.agent_state: 64, self.spool: 160, self.vault_folder: vault_mib}
        if layout in (Layout.PAIR, Layout.AZURE):
            del self._sizes[self.vault_folder]
        if layout is Layout.PAIR:
            self._sizes[home / second_server.NAME / "spool"] = 160
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Plant:
        with contextlib.ExitStack() as undo:
            for folder, mebibytes in self._sizes.items():
                undo.enter_context(small_disk(folder, mebibytes * _MIB))
            undo.enter_context(self.namespaces)
            if self.layout is Layout.PAIR:
                self.store = undo.enter_context(object_store(self.namespaces.servers))
                self.vault_url = self.store.url
            if self.layout is Layout.AZURE:
                self.azure = undo.enter_context(azure_store(self.namespaces.servers))
                self.vault_url = self.azure.url
            self._set_up(self._protected)
            undo.callback(lambda: unpin(pin_folder_of(self.machine)))  # left by an upgrade in the middle
            for program in self.programs:
                undo.callback(program.kill)
            undo.callback(self.stall.close)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _set_up(self, protected: Protected) -> None:
        servers = self.namespaces.command(self.namespaces.servers)
        setup = [sys.executable, "-m", "farshore.configuration_server.setup", "--home", str(self.home)]
        setup += ["--listen", "127.0.0.1", "--advertise", SERVERS_ADDRESS]
        setup += ["--port", str(API_PORT), "--process-server-port", str(DATA_PORT), "--vault-url", self.vault_url]
        subprocess.run(setup, check=True)
        self.weather(**CALM)
        settings = str(self.home / "process-server" / "settings.toml")
        self.configuration_server = self._program(
            "configuration-server",
            [*servers, sys.executable, "-m", "farshore.configuration_server", "--home", str(self.home)],
            FARSHORE_SPOOL_LIMIT=str(96 * _MIB),
            FARSHORE_GIVE_UP_PROCESS_SERVER_AFTER="8",
            **({"FARSHORE_CACHE": str(self.releases.cache)} if self.releases is not None else {}),
        )
        self.process_server = self._program(
            "process-server",
            [*servers, sys.executable, "-m", "farshore.process_server.main", "--settings", settings],
            FARSHORE_PROCESS_SERVER_SPOOL_FILE_BYTES=str(8 * _MIB),
        )
        if self.layout is Layout.PAIR:
            self.second = SecondServer(self.home, servers, lambda command: self._program("second-server", command))
        upkeep = [str(Path(__file__).with_name("upkeep.py")), self.vault_url, str(self.home / "vault.key")]
        self.upkeep = self._program("upkeep", [sys.executable, *upkeep])
        relay = [str(Path(__file__).with_name("relay.py")), str(self.home / "weather")]
        relay += [f"{SERVERS_ADDRESS}:{port}" for port in (API_PORT, DATA_PORT)]
        relay += [f"{SECOND_ADDRESS}:{second_server.PORT}"]
        self.relay = self._program("relay", [*servers, sys.executable, *relay])
        fault = protected.agent_fault
        program = [sys.executable, "-m", *(["tests.crash.fire.faulty_agent", fault] if fault else [_AGENT])]
        if self.releases is not None:
            self.releases.make()
            program = [str(self.releases.program)]
        options = ["--state", str(self.agent_state), "--ring-mib", "16", "--spill-mib", "24"]
        # The raw disk first: what a heal reads of it is read while its writes may be held back.
        devices = [disk.device for disk in (self.raw, *self.disks, self.spare)]
        options += [part for device in devices for part in ("--disk", str(device))]
        options += ["--capture", "bitmap", "--round-seconds", "3"] if self.layout is Layout.ROUNDS else []
        self._agent = [*self.namespaces.command(self.namespaces.machine), *program, *options]
        self.agent = self._program("agent", [*self._agent, "run"])

    @property
    def programs(self) -> list[Program]:
        """All of them, the servers first."""
        second = [self.second.program] if self.second is not None else []
        return [self.configuration_server, self.process_server, *second, self.relay, self.agent, self.upkeep]

    @property
    def clocks(self) -> list[Clock]:
        """Those that a point's time may be by: the agent's, then the process servers'."""
        second = [self.second.program] if self.second is not None else []
        return [program.clock for program in (self.agent, self.process_server, *second)]

    def _program(self, name: str, command: list[str], **environment: str) -> Program:
        return Program(name, command, self.home / f"{name}.log", Clock(self.home / f"{name}.clock"), environment)

    # ---- what is done to it ----

    def start(self) -> None:
        """Everything, and wait until the machine is protected."""
        for program in (self.configuration_server, self.process_server, self.relay):
            program.start()
        self.until(lambda: self._call(lambda api: bool(api.transport.request("GET", "/v1/process-servers") != b"[]")))
        if self.second is not None:
            assert self._call(self.second.enrol), self.trouble
            self.second.program.start()
        token = self._insist(lambda api: api.create_token(TokenRequest(name="fire")))
        command = [*self._agent, "enroll", "--server", f"https://{SERVERS_ADDRESS}:{API_PORT}"]
        command += ["--authority-fingerprint", token.authority_fingerprint]
        with self.spare.shown():
            done = subprocess.run(command, input=token.token.encode() + b"\n", capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        self.machine = MachineId(done.stdout.decode().strip())
        self.agent.start()
        self.until(self.is_protected)

    def weather(self, **values: float) -> None:
        """How the relay carries what the machine sends: see relay.py."""
        made = self.home / "weather.new"
        made.write_text(json.dumps({**CALM, **values}))
        made.replace(self.home / "weather")

    def order(self, path: str, body: Any = None, method: str = "POST") -> None:
        """Ask the API for something about the machine, and do not wait for what comes of it."""
        self.ask(method, f"machines/{self.machine}/{path}", body)

    def ask(self, method: str, path: str, body: Any = None, *, seconds: float = 0) -> None:
        """Ask the API for something, for so long where nobody answers, and do not wait for what comes of it. What is
        asked of one path gets there in order, however busy the host is."""
        give_up = time.monotonic() + seconds

        def insist() -> None:
            while self._call(call) is None and time.monotonic() < give_up:
                time.sleep(1)

        def call(api: Management) -> bytes:
            return api.transport.request(method, f"/v1/{path}", _json(body), content_type="application/json")

        self._askers.setdefault(path, ThreadPoolExecutor(1, "ask")).submit(insist)

    def say(self, what: str) -> None:
        """Tell what a fault has struck, for the round's report."""
        self.said.append(what)

    def look_after(self) -> None:
        """Start again what has ended by itself."""
        for program in self.programs:
            program.look_after()

    # ---- how it stands ----

    def is_protected(self) -> bool:
        """Whether the servers answer and call the machine protected."""
        shown = self.shown()
        return shown is not None and shown.state is MachineState.PROTECTED

    def shown(self) -> Machine | None:
        """The machine as users see it; None while nobody answers."""
        return self._call(lambda api: api.machine(self.machine))

    def point(self, name: str, kind: PointKind = PointKind.CRASH_CONSISTENT) -> Job | None:
        """Ask for a point; its job's end, None where nobody answers or it does not end."""
        job = self._call(lambda api: api.request_point(self.machine, PointRequest(kind=kind, name=name)))
        give_up = time.monotonic() + PATIENCE
        while job is not None and job.state not in _ENDED and time.monotonic() < give_up:
            time.sleep(0.2)
            job = self._job(job.id) or job
        return job

    def prove(self) -> None:
        """Ask for a proof of the whole copy, and do not wait for it."""
        path = f"/v1/machines/{self.machine}/proof"
        self._call(lambda api: api.transport.post(path, ProofRequest(whole=True), Job))

    def _job(self, job: str) -> Job | None:
        return self._call(lambda api: api.job(job))

    def until(self, true: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait. Raises TimeoutError."""
        give_up = time.monotonic() + seconds
        while not true():
            if time.monotonic() > give_up:
                raise TimeoutError("\n".join(f"{one.name}: {one.last_words()}" for one in self.programs))
            self.look_after()
            time.sleep(0.3)

    @contextlib.contextmanager
    def api(self) -> Iterator[Management]:
        """The API, asked where the servers are. Raises FarshoreError."""
        with inside(self.namespaces.servers):
            credentials = Credentials.load(self.home / "admin.json")
            transport = Transport(credentials.url, credentials.context(), read_seconds=10)
            with contextlib.closing(Management(transport)) as api:
                yield api

    def _call(self, ask: Callable[[Management], Answer]) -> Answer | None:
        try:
            with self.api() as api:
                return ask(api)
        except FarshoreError as error:
            self.trouble = str(error)
            return None

    def _insist(self, ask: Callable[[Management], Answer]) -> Answer:
        """Ask until there is an answer: a starved host may need longer than a request waits. Raises TimeoutError."""
        answers: list[Answer] = []

        def asked() -> bool:
            answer = self._call(ask)
            if answer is not None:
                answers.append(answer)
            return bool(answers)

        self.until(asked)
        return answers[0]

    def vault(self) -> MachineVault:
        """The machine in the vault, opened anew."""
        owner = OwnerKey.from_file(self.home / "vault.key")
        return Vault.open(open_store(self.vault_url), owner).machine(self.machine)


def _json(body: Any) -> list[bytes]:
    return [] if body is None else [json.dumps(body).encode()]
