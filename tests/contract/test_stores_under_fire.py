"""The promises of a store while its network and its service fail: nothing false, nothing lost, nobody wins twice."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
from tests.contract.faulty_proxy import Fault, FaultyProxy
from tests.unit.vault.synthetic import Machine
from tests.waiting import PATIENCE

from farshore.model.errors import Damaged, NotFound, TryLater
from farshore.model.identifiers import Epoch, Sequence
from farshore.model.position import Position
from farshore.vault import OwnerKey, Vault
from farshore.vault.stores.registry import open_store
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.verify import verify

T = TypeVar("T")
ENDPOINT = {"azurite": "AZURE_STORAGE_ENDPOINT", "ceph": "AWS_ENDPOINT"}


def until_done(work: Callable[[], T]) -> T:
    """As callers of a store do: what may pass is tried again."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except (TryLater, Damaged):
            if time.monotonic() > until:
                raise


@pytest.fixture(scope="module", params=list(ENDPOINT))
def proxy(request, double):
    url, environment = double(request.param)
    direct = environment[ENDPOINT[request.param]]
    upstream = urlsplit(direct)
    assert upstream.port
    with pytest.MonkeyPatch.context() as patch, FaultyProxy(upstream.port, seed=7, share=0.0).running() as made:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv(ENDPOINT[request.param], direct.replace(f":{upstream.port}", f":{made.port}"))
        made.url = url  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def store(proxy):
    made = open_store(f"{proxy.url}/{uuid.uuid4()}")
    proxy.share = 0.25
    yield made
    proxy.share = 0.0


def test_what_was_put_is_there_and_whole(store, proxy):
    chance = random.Random(3)
    objects = {f"x/{number:02}": chance.randbytes(chance.choice([0, 10, 5000, 200_000])) for number in range(30)}
    for name, data in objects.items():
        until_done(lambda name=name, data=data: store.put(name, [data]))
        # It is there as soon as the put has returned, for readers and in listings.
        assert bytes(until_done(lambda name=name: store.get(name))) == data
    for name, data in objects.items():
        if len(data) > 100:
            start = chance.randrange(len(data) - 50)
            found = until_done(lambda name=name, start=start: store.get_ranges(name, [start, 0], [50, 7]))
            assert [bytes(part) for part in found] == [data[start : start + 50], data[:7]]
    listed = until_done(lambda: [(item.name, item.size) for item in store.list("x/")])
    assert listed == [(name, len(data)) for name, data in sorted(objects.items())]
    until_done(lambda: store.delete("x/00"))
    with pytest.raises(NotFound):
        until_done(lambda: store.get("x/00"))
    assert sum(proxy.seen.values()) > proxy.seen[Fault.NONE]


def test_one_creator_wins_and_knows_it(store, proxy):
    for name in (f"race-{number}" for number in range(8)):
        won: list[int] = []

        def create(number: int, name: str = name, won: list[int] = won) -> None:
            if until_done(lambda: store.put_if_absent(name, [b"content of %d" % number])):
                won.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        data = bytes(until_done(lambda name=name: store.get(name)))
        assert [b"content of %d" % number for number in won] == [data]
    assert proxy.seen[Fault.LOST_AFTER] + proxy.seen[Fault.BUSY_AFTER] > 3


def test_a_vault_is_written_and_read(store, proxy):
    owner = OwnerKey(bytes(32), "key-file")
    vault = until_done(lambda: Vault.create(store, owner))
    machine = until_done(lambda: Machine(vault, 3, {0: 300 << 10}))
    proxy.share = 0.1
    machine.fill()
    put = machine.in_vault.writing.put_segment
    machine.in_vault.writing.put_segment = lambda segment: until_done(lambda: put(segment))  # type: ignore[method-assign]
    epoch = machine.epoch

    def begin() -> None:
        machine.epoch = epoch
        machine.begin_epoch(None)

    proxy.share = 0.03
    until_done(begin)
    proxy.share = 0.1
    machine.journal(segments=5, batches=1, count=10)
    until_done(lambda: compact(machine.in_vault, Tiers(segments=2, fan=2)))
    for sequence in (50, 20):
        until_done(lambda sequence=sequence: machine.check(Position(Epoch(1), Sequence(sequence))))
    proxy.share = 0.0
    assert verify(machine.vault, data=True).findings == []
