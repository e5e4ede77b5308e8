"""A stream that nobody uses is closed; what arrives at that very moment is refused, and taken when it is repeated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.process_server.simulated_agent import SimulatedAgent
from tests.unit.vault.synthetic import MACHINE

from farshore.formats.batch import Batch, Role
from farshore.model.errors import TryLater
from farshore.model.identifiers import Epoch
from farshore.process_server.spool.disk import SpoolDisk
from farshore.process_server.spool.log import SpoolLog
from farshore.process_server.streams.grants import Grants
from farshore.process_server.streams.registry import IDLE_SECONDS, Streams
from farshore.process_server.streams.stream import Stream
from farshore.process_server.streams.time_axis import Timing
from farshore.vault import OwnerKey, Vault, open_store

EPOCH = Epoch(1)


class Open:
    """A GrantSource by whom every epoch is open."""

    def stream(self, _machine: str, _epoch: int) -> Any:
        return SimpleNamespace(certificates=None, asked_rpo=5.0)


class Server:
    def __init__(self, vault: Vault, log: SpoolLog) -> None:
        self.closed: list[Stream] = []
        self.streams = Streams(
            vault, log, Grants(Open()), opened=lambda _: None, closed=self.closed.append, wake=lambda _: None
        )

    def stream(self) -> Stream:
        return self.streams.granted(MACHINE, EPOCH, "")[0]


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    OwnerKey.generate_file(tmp_path / "owner.key")
    vault = Vault.create(open_store("memory:///"), OwnerKey.from_file(tmp_path / "owner.key"))
    log = SpoolLog(SpoolDisk(tmp_path / "spool"), 64 << 20)
    log.start()
    yield Server(vault, log)
    log.stop()


def batch() -> Batch:
    plane: Any = None
    return SimulatedAgent(MACHINE, plane, EPOCH, 1 << 20, 1, bytes(32)).batch(3)


def test_a_batch_that_comes_as_the_stream_is_closed_is_not_acknowledged(server: Server) -> None:
    entered = server.stream()  # a request has found the stream, and its batch is on the way
    entered.last_used = time.monotonic() - IDLE_SECONDS - 1
    server.streams.close_unused()
    assert server.closed == [entered]
    with pytest.raises(TryLater) as caught:
        entered.receive(batch(), Timing(0.0, 0))
    assert caught.value.after
    again = server.stream()
    assert again is not entered
    again.receive(batch(), Timing(0.0, 0))
    assert again.next_sequence(Role.JOURNAL) == 4


def test_a_stream_with_something_waiting_or_in_use_stays(server: Server) -> None:
    stream = server.stream()
    server.streams.close_unused()
    stream.receive(batch(), Timing(0.0, 0))
    stream.last_used = time.monotonic() - IDLE_SECONDS - 1
    server.streams.close_unused()
    assert server.closed == []
    assert server.stream() is stream
