"""Deduplication domains from the policy to the vault, over real servers: what machines learn of each other."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from tests.scenarios.control.servers import Server
from tests.unit.configuration_server.offices import signing_request_and_key
from tests.unit.process_server.simulated_agent import SimulatedAgent
from tests.waiting import PATIENCE, until

from farshore.api_types.machines import Description, Disk, EnrolmentRequest, EpochKind, EpochRequest, TokenRequest
from farshore.api_types.policies import Policy
from farshore.api_types.servers import ProcessServer, VaultStatus
from farshore.client.data_plane import DataPlane
from farshore.client.enrolment import enrol
from farshore.client.machine_self import MachineSelf
from farshore.client.transport import Transport
from farshore.formats import vault_names
from farshore.formats.chunk_exchange import Comparison, Verdict
from farshore.model.errors import Forbidden, NotFound
from farshore.model.identifiers import CHUNK, DiskNumber, MachineId
from farshore.model.machine import Firmware
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.upkeep.verify import verify

SIZE = 2 << 20
CHUNKS = SIZE // CHUNK
PROGRAM = [sys.executable, "-m", "farshore.process_server.main"]


def description(name: str) -> Description:
    return Description(
        hostname=name,
        firmware=Firmware.BIOS,
        processors=1,
        memory=1 << 30,
        operating_system="Debian 12",
        kernel="6.1",
        architecture="x86_64",
        hardware_id=name,
        disks=[Disk(number=0, name="vda", size=SIZE, boot=True)],
    )


class Installation:
    """A configuration server and its process server, in ``home``."""

    def __init__(self, home: Path) -> None:
        self.control = Server(home)
        self.control.start()
        self.admin = self.control.admin()
        self._process: subprocess.Popen[bytes] | None = None
        self._transports: list[Transport] = []

    def start(self) -> None:
        home = self.control.home
        ready = home / "ready"
        settings = {
            "STATE": home / "process-server",
            "CREDENTIALS": home / "process-server" / "credentials.json",
            "LISTEN": "127.0.0.1",
            "PORT": "0",
            "URL": "https://127.0.0.1:1",
            "READY_FILE": ready,
        }
        given = {f"FARSHORE_PROCESS_SERVER_{name}": str(value) for name, value in settings.items()}
        with (home / "process-server.log").open("ab") as log:
            self._process = subprocess.Popen(PROGRAM, env={**os.environ, **given}, stdout=log, stderr=log)

        def runs() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, (home / "process-server.log").read_text()
            listed = self.admin.transport.get_list("/v1/process-servers", ProcessServer)
            return ready.exists() and ready.read_text().endswith("\n") and any(one.healthy for one in listed)

        until(runs, "the process server does not report")
        self.port = int(ready.read_text().split()[1])

    def stop(self) -> None:
        for transport in self._transports:
            transport.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait(PATIENCE)
        self.admin.close()
        self.control.kill()

    def machine(self, name: str, policy: str) -> SimulatedAgent:
        """An enrolled machine with an epoch; all of them have the same disk."""
        token = self.admin.create_token(TokenRequest(name=name, policy=policy))
        request, key = signing_request_and_key()
        url = self.control.credentials().url
        asked = EnrolmentRequest(token=token.token, request=request, description=description(name))
        enrolled = enrol(url, token.authority_fingerprint, asked)
        calls = MachineSelf(self.control.transport(enrolled.certificate, key))
        epoch = EpochRequest(run="r1", kind=EpochKind.INITIAL, description=description(name))
        grant = calls.open_epoch(epoch)
        calls.close()
        transport = self.control.transport(enrolled.certificate, key)
        transport.url = f"https://127.0.0.1:{self.port}"
        self._transports.append(transport)
        plane = DataPlane(transport, enrolled.machine, grant.epoch)
        made = SimulatedAgent(MachineId(enrolled.machine), plane, grant.epoch, SIZE, 1, bytes.fromhex(grant.hash_key))
        made.fill(1.0)
        return made

    def vault(self) -> Vault:
        """As its owner opens it."""
        status = self.admin.transport.get("/v1/vault", VaultStatus)
        return Vault.open(open_store(status.url), OwnerKey.from_file(self.control.home / "vault.key"))


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path / "home")
    try:
        made.start()
        yield made
    finally:
        made.stop()


def answer(machine: SimulatedAgent, block: np.ndarray) -> Verdict:
    """What a machine hears that asks for a block, as a guess at what another one has."""
    digest = blake3(block, key=machine.hash_key).digest()
    return Verdict(int(machine.plane.compare(Comparison(DiskNumber(0), 0, np.frombuffer(digest, np.uint8)[None]))[0]))


def protect(machine: SimulatedAgent) -> int:
    sent = machine.copy()
    machine.batch(10)
    machine.deliver()
    machine.complete(machine.next - 1)
    return sent


def test_machines_share_and_learn_within_their_deduplication_domain_only(installation: Installation) -> None:
    for name, value in (("alone", "machine"), ("finance", "label:finance")):
        installation.admin.transport.post("/v1/policies", Policy(name=name, deduplication=value), Policy)
    victim, beside = installation.machine("victim", "alone"), installation.machine("beside", "alone")
    secret = victim.base[:CHUNK].copy()
    assert protect(victim) == CHUNKS
    # Of what a machine of its own domain has, nobody else can find out whether the vault has it.
    assert answer(beside, secret) is Verdict.SEND
    assert protect(beside) == CHUNKS
    # The control: within one domain the same question is answered, and the same disk is not sent again.
    for policy in ("default", "finance"):
        first, second = installation.machine(f"{policy}-1", policy), installation.machine(f"{policy}-2", policy)
        assert answer(first, secret) is Verdict.SEND
        assert protect(first) == CHUNKS
        assert answer(second, secret) is Verdict.HAVE
        assert protect(second) == 0
        for machine in (first, second):
            check(installation, machine)
    for machine in (victim, beside):
        check(installation, machine)
    vault = installation.vault()
    packs = [item.name for item in vault.store.list(vault_names.CHUNKS)]
    assert len({vault_names.chunk_domain(name) for name in packs}) == 4
    assert verify(vault, data=True).findings == []
    check_keys(installation, victim)


def check(installation: Installation, machine: SimulatedAgent) -> None:
    """The owner's key opens the newest point of every machine, whatever its domain."""
    found = installation.vault().machine(machine.machine)
    newest = found.points.latest().position
    source = found.disks.open(newest, DiskNumber(0))
    data = bytearray(SIZE)
    source.read_into(0, memoryview(data))
    source.close()
    assert newest.sequence == machine.next - 1
    assert data == machine.disk_at(machine.next - 1).tobytes()


def check_keys(installation: Installation, machine: SimulatedAgent) -> None:
    """The process server is given the keys of what it serves, and nothing else."""
    calls = installation.control.process_server()
    given = calls.keys(machine.machine)
    vault = installation.vault()
    assert bytes.fromhex(given.key) == vault.machine(machine.machine).key.secret
    assert [one.domain for one in given.chunks] == [vault.domain(f"machine:{machine.machine}")]
    token = installation.admin.create_token(TokenRequest(name="unserved"))
    request, _ = signing_request_and_key()
    asked = EnrolmentRequest(token=token.token, request=request, description=description("unserved"))
    unserved = enrol(installation.control.credentials().url, token.authority_fingerprint, asked).machine
    with pytest.raises(Forbidden):
        calls.keys(unserved)
    with pytest.raises(NotFound):
        calls.keys("00000000-0000-0000-0000-000000000000")
    calls.close()
