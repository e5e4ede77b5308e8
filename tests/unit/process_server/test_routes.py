"""Copies that wait for a slow store take no more than their share of the workers; streams go on."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from farshore.clock import SystemClock
from farshore.formats.chunk_exchange import CHUNK_ROW, Chunks, encode_chunks
from farshore.model.bandwidth import Bandwidth
from farshore.model.errors import Busy
from farshore.model.identifiers import DiskNumber
from farshore.process_server.data_plane.routes import Routes
from farshore.process_server.listening.exchange import Request
from farshore.process_server.listening.peer import Peer
from farshore.process_server.proving.proofs import Proofs

NO_VAULT: Any = SimpleNamespace(store=None)

MACHINE = "11111111-1111-4111-8111-111111111111"


class Stream:
    machine, epoch, base_complete = MACHINE, 1, False

    def next_sequence(self, _role: object) -> int:
        return 1


class Streams:
    def granted(self, *_key: object) -> tuple[Stream, None]:
        return Stream(), None


class SlowCopies:
    """``put`` waits for the store."""

    def __init__(self) -> None:
        self.store = threading.Event()
        self.waiting = threading.Semaphore(0)

    def get(self, *_of: object) -> SlowCopies:
        return self

    def put(self, _chunks: object) -> None:
        self.waiting.release()
        assert self.store.wait(30)

    def told(self, _stream: object) -> int:
        return 0


def request(method: str, path: str, body: bytes = b"") -> Request:
    peer = Peer("machine", MACHINE)
    return Request(method, f"/v1/streams/{MACHINE}/1{path}", peer, len(body), lambda _limit: memoryview(body))


def test_a_slow_store_holds_up_copies_and_no_streams() -> None:
    copies: Any = SlowCopies()
    streams: Any = Streams()
    routes = Routes(streams, copies, lambda *_: None, Proofs(NO_VAULT), copying=2, bandwidth=Bandwidth(SystemClock()))
    body = b"".join(bytes(part) for part in encode_chunks(Chunks(DiskNumber(0), np.zeros(0, CHUNK_ROW), b"")))
    threads = [threading.Thread(target=routes, args=(request("POST", "/chunks", body),)) for _ in range(2)]
    for thread in threads:
        thread.start()
        assert copies.waiting.acquire(timeout=30)
    with pytest.raises(Busy) as caught:
        routes(request("POST", "/chunks", body))
    assert caught.value.after
    assert routes(request("GET", "")).status == 200
    copies.store.set()
    for thread in threads:
        thread.join()
    assert routes(request("POST", "/chunks", body)).status == 200
