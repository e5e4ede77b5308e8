"""A bandwidth limit is no trouble of the store, and what copies store never delays what streams store."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from obstore.store import MemoryStore
from tests.unit.mobility.doubles import FakeClock
from tests.unit.process_server.test_routes import SlowCopies, Streams, request

from farshore.formats import vault_names
from farshore.model.bandwidth import Bandwidth
from farshore.model.errors import Busy, Forbidden, NoSpace, NotFound, TryLater
from farshore.process_server.data_plane.routes import Routes
from farshore.process_server.proving.proofs import Proofs
from farshore.process_server.storing.throttled_store import ThrottledStore
from farshore.process_server.storing.watched_store import SLOW_SECONDS, WatchedStore
from farshore.vault.stores.remote import RemoteStore

NO_VAULT: Any = SimpleNamespace(store=None)

LIMIT = 500_000
SEGMENT = bytes(8 << 20)
PACK = vault_names.chunk_pack(bytes(16))


class Waits(threading.Event):
    """Waiting takes no time but the clock's; ``meanwhile`` is the trouble that was told in each wait."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock, self.watched, self.meanwhile = clock, None, []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        assert self.watched is not None
        self.clock.move(timeout)
        self.meanwhile.append(self.watched.trouble)
        return False


class Failing(RemoteStore):
    """In memory; a put takes ``seconds`` of the clock, or raises ``error``."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryStore(), "memory:///")
        self.clock, self.seconds, self.error = clock, 0.0, None
        self.during = lambda: None

    def put(self, name, buffers):
        if self.error is not None:
            raise self.error
        self.clock.move(self.seconds)
        self.during()
        super().put(name, buffers)


class Setting:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.inner = Failing(self.clock)
        self.watched = WatchedStore(self.inner, self.clock)
        self.bandwidth = Bandwidth(self.clock, LIMIT)
        self.waits = Waits(self.clock)
        self.waits.watched = self.watched
        self.store = ThrottledStore(self.watched, self.bandwidth, self.waits)


@pytest.fixture
def made() -> Setting:
    return Setting()


def test_waiting_for_the_limit_is_no_trouble_of_the_store(made):
    began = made.clock.mono
    for number in range(3):
        made.store.put(f"segment-{number}", [SEGMENT])
    assert made.clock.mono - began > 2 * SLOW_SECONDS
    assert len(made.waits.meanwhile) > 2 * SLOW_SECONDS
    assert set(made.waits.meanwhile) == {""}


def test_a_store_that_is_slow_is_trouble_while_it_is(made):
    seen = []
    made.inner.during = lambda: seen.append(made.watched.trouble)
    for made.inner.seconds in (SLOW_SECONDS - 1, SLOW_SECONDS + 1):
        made.store.put("segment", [b"little"])
    assert seen[0] == ""
    assert "The store is slow" in seen[1]
    assert made.watched.trouble == ""


def test_a_refusal_passes_and_is_told_until_the_store_takes_something_again(made):
    made.inner.error = Forbidden("The store refuses these credentials.", remedy="Check the key.")
    with pytest.raises(TryLater, match="refuses these credentials") as caught:
        made.store.put("object", [b"little"])
    assert caught.value.after
    assert caught.value.__cause__ is made.inner.error
    with pytest.raises(NotFound):
        made.store.get("another")
    assert made.watched.trouble == "The store refuses these credentials. Check the key.", "reading works, writing not"
    made.inner.error = None
    made.store.put("object", [b"little"])
    assert made.watched.trouble == ""


def test_trouble_that_nobody_meets_any_more_is_forgotten(made):
    made.inner.error = NoSpace("The store is full.", remedy="Make room.")
    with pytest.raises(NoSpace):
        made.store.put("object", [b"little"])
    made.clock.move(60)
    assert made.watched.trouble
    made.clock.move(60)
    assert made.watched.trouble == ""


def test_a_pack_is_refused_instead_of_waited_for_and_delays_no_segment(made):
    made.clock.move(1)
    made.store.put(PACK, [SEGMENT])
    assert made.bandwidth.wait_for(LIMIT // 2) == 0.5, "a segment waits for its own bytes and not for the pack's"
    with pytest.raises(Busy) as caught:
        made.store.put(PACK, [SEGMENT])
    assert 0 < caught.value.after <= 15
    assert not made.waits.meanwhile, "nothing was waited for"


def test_segments_and_packs_together_keep_to_the_limit(made):
    began = made.clock.mono
    sent = packs = 0
    while made.clock.mono - began < 300:
        made.store.put("segment", [bytes(100_000)])
        sent += 100_000
        try:
            made.store.put(PACK, [SEGMENT])
            sent += len(SEGMENT)
            packs += 1
        except Busy:
            made.clock.move(0.5)
    assert packs >= 5, "copies get what streams leave"
    assert sent <= LIMIT * (made.clock.mono - began) + len(SEGMENT) + LIMIT


def test_chunks_are_refused_before_they_are_read_while_over_the_limit(made):
    copies: Any = SlowCopies()
    copies.store.set()
    streams: Any = Streams()
    routes = Routes(streams, copies, lambda *_: None, Proofs(NO_VAULT), 2, made.bandwidth)
    made.store.put(PACK, [SEGMENT])
    asked = request("POST", "/chunks")
    with pytest.raises(Busy) as caught:
        routes(type(asked)(asked.method, asked.path, asked.peer, 1 << 20, lambda _: pytest.fail("the body was read")))
    assert caught.value.after
    assert routes(request("GET", "")).status == 200
    made.bandwidth.limit = 0
    assert made.bandwidth.behind() == 0.0
