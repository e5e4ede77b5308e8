"""Whole sessions on port 9443 that are wrong somewhere: in TLS, in HTTP, in a body that is well formed and nonsense.

A machine with a good certificate may send anything. Each session is made of right requests, of which something is then
changed. Whatever comes: no request fails in a way that unexpectedly, no thread ends, and a neighbour's stream is
taken and stored as ever. A session's seed is in the message of what fails. ``make soak`` goes through many more.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.unit.process_server.simulated_agent import SimulatedAgent, description
from tests.unit.vault.synthetic import memory_vault

from farshore.api_types.machines import EpochKind
from farshore.api_types.servers import ProcessServerSettings, ReportAnswer, ServerReport, StreamGrant
from farshore.client.credentials import client_context
from farshore.client.data_plane import DataPlane
from farshore.client.transport import Transport
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.pki.authority import Authority
from farshore.formats.batch import Batch, Role, encode
from farshore.formats.chunk_exchange import CHUNK_ROW, Chunks, Comparison, encode_chunks, encode_comparison
from farshore.formats.proof import Difference, Proof, encode_difference, encode_proof
from farshore.formats.record import RECORD, has_payload
from farshore.model.errors import NotFound
from farshore.model.identifiers import CHUNK, SECTOR, DiskNumber, Epoch, MachineId, Sequence
from farshore.model.position import Position
from farshore.process_server.listening.peer import server_context
from farshore.process_server.server import Endpoint, ProcessServer
from farshore.process_server.spool.disk import SpoolDisk

SIZE = 4 << 20
SESSIONS = 3000 if os.environ.get("FARSHORE_SOAK") else 25
FUZZED = MachineId("00000000-0000-0000-0000-00000000000f")
NEIGHBOUR = MachineId("00000000-0000-0000-0000-00000000000a")
ODD = [0, 1, 2, 255, (1 << 16) - 1, (1 << 31) - 1, (1 << 32) - 1, (1 << 54) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
Random = np.random.Generator


class Control:
    """What a configuration server would say: every epoch of the two machines is open."""

    def stream(self, machine: str, epoch: int) -> StreamGrant:
        if machine not in (FUZZED, NEIGHBOUR) or epoch > SESSIONS:
            raise NotFound("There is no such epoch.", remedy="Ask for one.")
        kind = EpochKind.INITIAL if epoch == 1 else EpochKind.RESYNC
        return StreamGrant(
            machine=machine, epoch=epoch, kind=kind, parent_epoch=epoch - 1, description=description(SIZE, 3 << 16)
        )

    def report(self, report: ServerReport) -> ReportAnswer:
        report.model_dump_json()  # as it would travel
        for stream in report.streams:
            assert 0 <= stream.stored_time < 1 << 63
            assert abs(stream.stored_age or 0) < 1 << 32
            assert abs(stream.clock_behind) < 1 << 34
        for one in (*report.points, *report.epochs):
            assert 0 <= one.time < 1 << 63
        return ReportAnswer()


class Site:
    """``epoch`` is the fuzzed machine's."""

    def __init__(self, folder: Path) -> None:
        self.epoch = 1
        now = datetime.datetime.now(datetime.UTC)
        self.authority = Authority.create("test authority", now)
        issued, key = self.authority.issue(Identity(Kind.PROCESS_SERVER, "ps"), now, ["127.0.0.1"])
        context = server_context(self.authority.certificate, issued.certificate, key)
        self.vault = memory_vault()
        settings = ProcessServerSettings(vault_url="memory:///", upkeep_key="", spool_limit=64 << 20, seal_every=0.05)
        disk = SpoolDisk(folder / "spool")
        endpoint = Endpoint(context, "127.0.0.1", 0)
        self.server = ProcessServer(Control(), self.vault, settings, disk, endpoint, "test", spool_file_bytes=1 << 20)
        self.server.start()
        self.contexts = {machine: self._context(machine, now) for machine in (FUZZED, NEIGHBOUR)}

    def _context(self, machine: MachineId, now: datetime.datetime) -> ssl.SSLContext:
        issued, key = self.authority.issue(Identity(Kind.MACHINE, machine), now)
        return client_context(self.authority.certificate, issued.certificate, key)

    def line(self) -> socket.socket:
        return socket.create_connection(self.server.listener.address, 30)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.server.stop()


@pytest.fixture
def unforeseen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What no error of ours foresaw."""
    found: list[str] = []

    class Watching(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info or "unexpectedly" in record.getMessage():
                found.append(f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}")

    monkeypatch.setattr(threading, "excepthook", lambda failure: found.append(repr(failure.exc_value)))
    watching = Watching()
    logging.getLogger("farshore.process_server").addHandler(watching)
    yield found
    logging.getLogger("farshore.process_server").removeHandler(watching)


def odd(random: Random) -> int:
    return int(random.choice(np.array(ODD, np.uint64))) if random.random() < 0.7 else int(random.integers(0, 1 << 40))


def expected(site: Site, role: Role) -> int:
    """The sequence that the fuzzed machine's epoch goes on with."""
    found = [one for one in site.server.streams.all() if (one.machine, one.epoch) == (FUZZED, site.epoch)]
    return found[0].lanes[role].accepted if found else 1


def a_batch(random: Random, site: Site) -> bytes:
    """A batch whose digest is right; its fields may be anything."""
    records = np.zeros(int(random.integers(1, 12)), RECORD)
    records["kind"] = random.integers(1, 7, len(records))
    records["sector"] = random.integers(0, SIZE // SECTOR, len(records))
    records["sectors"] = random.integers(1, 17, len(records))
    for name in ("sector", "sectors", "time_us", "disk", "kind", "flags", "reserved"):
        if random.random() < 0.05:
            top = (1 << (8 * RECORD[name].itemsize)) - 1
            records[name][int(random.integers(0, len(records)))] = odd(random) & top
    carries = has_payload(records)
    records["sectors"][carries] = np.minimum(records["sectors"][carries], 200)
    parts = [a_payload(random, int(one["kind"]), int(one["sectors"]) * SECTOR) for one in records[carries]]
    role = Role(int(random.integers(0, 2)))
    made = Batch(
        FUZZED,
        Epoch(site.epoch if random.random() < 0.95 else odd(random) & 0xFFFFFFFF),
        role,
        Sequence(expected(site, role) if random.random() < 0.8 else odd(random)),
        time.time_ns() if random.random() < 0.8 else odd(random),
        records,
        b"".join(parts),
        0 if random.random() < 0.3 else odd(random),
    )
    return b"".join(bytes(part) for part in encode(made))


def a_payload(random: Random, kind: int, length: int) -> bytes:
    if kind != 5 or random.random() < 0.1:
        return random.bytes(length)
    if random.random() < 0.1:
        return b"[" * length
    strange: list[object] = ["a", "\ud800", "../x", "x" * 70, 7, None, [], {"a": 1}, "\x1b[2J", "n" * 250]
    text = json.dumps(
        {
            "id": strange[0] if random.random() < 0.6 else strange[int(random.integers(0, len(strange)))],
            "kind": "crash-consistent" if random.random() < 0.7 else strange[int(random.integers(0, len(strange)))],
            "name": strange[int(random.integers(0, len(strange)))],
        }
    ).encode()
    return text[:length].ljust(length, b"[" if random.random() < 0.1 else b" ")


def a_comparison(random: Random, _site: Site) -> bytes:
    count = int(random.integers(1, 40))
    hashes = random.integers(0, 256, (count, 32), np.uint8) * (random.random((count, 1)) < 0.5)
    first = int(random.integers(0, 64)) if random.random() < 0.7 else odd(random)
    comparison = Comparison(DiskNumber(int(random.integers(0, 4))), first, hashes.astype(np.uint8))
    return b"".join(bytes(part) for part in encode_comparison(comparison))


def some_chunks(random: Random, _site: Site) -> bytes:
    count = int(random.integers(1, 3))
    rows = np.zeros(count, CHUNK_ROW)
    for row in rows:
        row["chunk"] = int(random.integers(0, 64)) if random.random() < 0.7 else odd(random)
        row["length"] = CHUNK if random.random() < 0.7 else odd(random) & 0xFFFFFFFF
        row["hash"] = np.void(random.bytes(32))
    payload = random.bytes(min(1 << 20, int(rows["length"].sum())) if random.random() < 0.8 else 100)
    return b"".join(bytes(part) for part in encode_chunks(Chunks(DiskNumber(0), rows, payload)))


def a_proof(random: Random, site: Site) -> bytes:
    count = int(random.integers(1, 30))
    chunks = np.sort(random.choice(64, count, replace=False)).astype(np.int64)
    if random.random() < 0.2:
        chunks[-1] = odd(random) % (1 << 62)
    hashes = random.integers(0, 256, (count, 32), np.uint8) * (random.random((count, 1)) < 0.5)
    sequence = Sequence(int(random.integers(0, 60)) if random.random() < 0.8 else odd(random) % (1 << 63))
    made = Proof(DiskNumber(int(random.integers(0, 3))), sequence, chunks, hashes.astype(np.uint8))
    return b"".join(bytes(part) for part in encode_proof(made))


def a_difference(random: Random, _site: Site) -> bytes:
    data = random.bytes(CHUNK if random.random() < 0.7 else int(random.integers(0, CHUNK)))
    chunk = int(random.integers(0, 64)) if random.random() < 0.8 else odd(random) % (1 << 63)
    proven = None if random.random() < 0.5 else Position(Epoch(int(random.integers(0, 9))), Sequence(1))
    cause = ["a heal", "\x1b[2J", "x" * 600, "\0\n"][int(random.integers(0, 4))]
    told = Difference(DiskNumber(0), Sequence(int(random.integers(0, 60))), chunk, data, proven, cause)
    return b"".join(bytes(part) for part in encode_difference(told))


def a_document(random: Random, _site: Site) -> bytes:
    fields: dict[str, object] = {"consistent_from": 0, "time": 1, "base_end": 1, "only_points": False}
    for name in list(fields):
        if random.random() < 0.3:
            fields[name] = [odd(random), -1, 1 << 80, "\ud800", None, 1.5, [], "x" * 1000][int(random.integers(0, 8))]
    return json.dumps(fields).encode() if random.random() < 0.8 else b"[" * int(random.integers(1, 60_000))


def an_offer(random: Random, _site: Site) -> bytes:
    return json.dumps({"versions": [odd(random) for _ in range(int(random.integers(0, 200)))]}).encode()


def a_request(random: Random, site: Site) -> bytes:
    others = [0, site.epoch - 1, 1 << 31, (1 << 32) - 1, 9_999_999_999]
    epoch = site.epoch if random.random() < 0.9 else others[int(random.integers(0, 5))]
    root = f"/v1/streams/{FUZZED if random.random() < 0.95 else NEIGHBOUR}/{epoch}"
    method, path, body = [
        ("POST", f"{root}/batches", a_batch),
        ("POST", f"{root}/batches", a_batch),
        ("POST", f"{root}/batches", a_batch),
        ("POST", f"{root}/chunks/compare", a_comparison),
        ("POST", f"{root}/chunks", some_chunks),
        ("POST", f"{root}/base", a_document),
        ("POST", f"{root}/proofs", a_proof),
        ("POST", f"{root}/differences", a_difference),
        ("POST", "/v1/protocol", an_offer),
        ("GET", root, None),
        ("GET", f"{root}/chunks/missing", None),
        ("GET", "/v1/protocol", None),
    ][int(random.integers(0, 12))]  # type: ignore[misc]
    data = body(random, site) if body is not None else b""
    if data and random.random() < 0.15:
        data = changed(random, data)
    length: object = len(data)
    if random.random() < 0.05:
        length = [odd(random), -1, "", "1" * 30, f"{len(data)}, {len(data)}"][int(random.integers(0, 5))]
    more = ["", "", "", "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n", "Connection: close\r\n"][
        int(random.integers(0, 6))
    ]
    if random.random() < 0.5:
        more += f"Farshore-Monotonic: {odd(random)}\r\n"
    head = f"{method} {path} HTTP/1.1\r\nHost: ps\r\nContent-Length: {length}\r\n{more}\r\n"
    made = head.encode() + data
    return changed(random, made, len(head)) if random.random() < 0.1 else made


def changed(random: Random, data: bytes, reach: int = 0) -> bytes:
    """A few bytes of the first ``reach`` changed, taken out or put in."""
    made = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        at = int(random.integers(0, min(len(made), reach or len(made)) or 1))
        what = random.random()
        if what < 0.5 and at < len(made):
            made[at] = int(random.choice([0, 10, 13, 32, 127, 255, int(random.integers(0, 256))]))
        elif what < 0.75:
            del made[at : at + int(random.integers(1, 5))]
        else:
            made[at:at] = random.bytes(int(random.integers(1, 5)))
    return bytes(made)


def session(site: Site, random: Random, answers: Counter[bytes]) -> None:
    """One connection, from its beginning to the end that either side makes; ``answers`` counts statuses."""
    with contextlib.suppress(OSError, ssl.SSLError), site.line() as raw:
        raw.settimeout(0.3)
        if random.random() < 0.1:
            raw.sendall(random.bytes(int(random.integers(1, 3000))))
            raw.recv(1 << 16)
            return
        with site.contexts[FUZZED].wrap_socket(raw, server_hostname="127.0.0.1") as line:
            for _ in range(int(random.integers(1, 6))):
                data = a_request(random, site)
                if random.random() < 0.1:
                    data = data[: int(random.integers(0, len(data)))]
                    line.sendall(data)
                    if random.random() < 0.5:
                        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                line.sendall(data)
                if random.random() < 0.9:  # else the next one comes before the answer
                    answers[line.recv(1 << 16)[9:12]] += 1


def test_no_session_harms_a_neighbour_or_is_unforeseen(site: Site, unforeseen: list[str]) -> None:
    began = int(os.environ.get("FARSHORE_SEED", "1"))
    transport = Transport(
        f"https://127.0.0.1:{site.server.listener.address[1]}", site.contexts[NEIGHBOUR], read_seconds=60
    )
    plane = DataPlane(transport, NEIGHBOUR, 1)
    neighbour = SimulatedAgent(NEIGHBOUR, plane, 1, SIZE, 1, site.vault.chunk_hash_key)
    answers: Counter[bytes] = Counter()
    threads = {thread.name for thread in threading.enumerate()}
    for seed in range(began, began + SESSIONS):
        site.epoch = 1 + (seed - began) // 5
        session(site, np.random.default_rng(seed), answers)
        assert not unforeseen, f"seed {seed}: {unforeseen}"
        if seed % 10 == 0:
            neighbour.send(neighbour.batch(3))
    assert {thread.name for thread in threading.enumerate()} >= threads
    deadline = time.monotonic() + 120
    while site.vault.machine(NEIGHBOUR).stored.timeline().last(Epoch(1)) != neighbour.next - 1:
        assert time.monotonic() < deadline, "what the neighbour sent is not stored"
        time.sleep(0.05)
    assert (NEIGHBOUR, Epoch(1)) not in site.server.streams.stuck()
    assert not site.server.uploader.trouble
    assert not unforeseen
    assert {b"200", b"400"} <= set(answers), f"it gets nowhere: {answers}"
    transport.close()
