"""The sender: order under trouble, duplicates, gaps, and when to give up."""

from __future__ import annotations

import threading
from typing import Callable, List

import pytest
from tests.unit.mobility.doubles import MACHINE, FakeClock, ProcessServerDouble
from tests.unit.mobility.test_spill import piece

from farshore.api_types.streams import Acknowledgement
from farshore.formats.batch import Buffer, Role
from farshore.mobility.retrying import Pauses, Stopped
from farshore.mobility.stream.backlog import Backlog
from farshore.mobility.stream.batches import EncodedBatch, Journal
from farshore.mobility.stream.kept import Kept
from farshore.mobility.stream.sender import Sender
from farshore.mobility.stream.throttle import Bandwidth
from farshore.model.errors import Busy, Damaged, FarshoreError, Fenced, Gap, Refused, Unreachable
from farshore.model.identifiers import Sequence as SequenceNumber

BATCHES = 5


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farshore.mobility.retrying.FIRST_PAUSE", 0.0)
    monkeypatch.setattr("farshore.mobility.retrying.LONGEST_PAUSE", 0.0)


class Rig:
    def __init__(self, trouble: Callable[[str], None]) -> None:
        self.clock = FakeClock()
        self.stop = threading.Event()
        self.backlog = Backlog(None)
        journal = Journal(MACHINE, 1, self.clock)
        for fill in range(BATCHES):
            self.backlog.put(journal.batch(piece(1, fill + 1)))

        acknowledge = self.backlog.acknowledge

        def then_stop(expected: SequenceNumber) -> List[EncodedBatch]:
            dropped = acknowledge(expected)
            if self.backlog.empty:
                self.stop.set()
            return dropped

        self.backlog.acknowledge = then_stop  # type: ignore[method-assign]
        self.server = ProcessServerDouble({0: 4096}, trouble)
        self.sender = Sender(self.backlog, self.server, Bandwidth(self.clock), self.clock)

    def run(self) -> List[int]:
        self.sender.run(self.stop)
        return [data[0] for *_, data in self.server.journal]


def every_third(error: Callable[[], FarshoreError], at: str) -> Callable[[str], None]:
    calls: List[str] = []

    def trouble(call: str) -> None:
        calls.append(call)
        if call == at and calls.count(call) % 3 == 1:
            raise error()

    return trouble


@pytest.mark.parametrize("at", ["send", "acknowledge"])
@pytest.mark.parametrize("kind", [Unreachable, Busy])
def test_trouble_before_or_after_the_server_has_it_changes_nothing(at: str, kind: type[Unreachable]) -> None:
    rig = Rig(every_third(lambda: kind("no", remedy="", after=0.0), at))
    assert rig.run() == list(range(1, BATCHES + 1))
    assert rig.backlog.empty
    assert rig.backlog.last_acknowledged == BATCHES


def test_a_server_that_is_ahead_is_believed() -> None:
    rig = Rig(lambda call: None)
    head = rig.backlog.head(0)
    assert head is not None
    rig.server.send_encoded(head.buffers)  # and the answer was lost
    real = rig.server.send_encoded

    def gap_once(buffers: List[Buffer], now: int) -> Acknowledgement:
        rig.server.send_encoded = real  # type: ignore[method-assign]
        raise Gap("behind", remedy="", expected=2)

    rig.server.send_encoded = gap_once  # type: ignore[method-assign,assignment]
    assert rig.run() == list(range(1, BATCHES + 1))


@pytest.mark.parametrize(
    "error",
    [
        Fenced("gone", remedy=""),
        Gap("it lost what it had", remedy="", expected=1),
        Refused("no", remedy=""),
    ],
)
def test_what_will_not_pass_ends_the_epoch(error: FarshoreError) -> None:
    def trouble(call: str) -> None:
        if call == "send" and rig.backlog.last_acknowledged == 2:
            raise error

    rig = Rig(trouble)
    rig.sender._bandwidth.limit = 1 << 40  # one after another, so that the trouble meets the third
    with pytest.raises(type(error)):
        rig.run()
    assert rig.backlog.last_acknowledged == 2


def test_damage_on_the_way_is_tried_again_but_not_for_ever() -> None:
    assert Rig(every_third(lambda: Damaged("altered", remedy=""), "send")).run() == list(range(1, BATCHES + 1))

    def always(call: str) -> None:
        raise Damaged("altered", remedy="")

    with pytest.raises(Damaged):
        Rig(always).run()


def test_a_stop_ends_the_waiting() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        Pauses(stop).rest(Unreachable("away", remedy="", after=100))


class Dying:
    """A process server that dies once ``after`` batches were sent; another one has only what was ``stored``."""

    def __init__(self, rig: Rig, after: int, stored: int) -> None:
        self.rig, self.after, self.stored = rig, after, stored
        self.dead = False
        self.real = rig.server.send_encoded
        rig.server.send_encoded = self.send_encoded  # type: ignore[method-assign,assignment]

    def send_encoded(self, buffers: List[Buffer], now: int) -> Acknowledgement:
        with self.rig.server._lock:
            if self.rig.backlog.last_acknowledged == self.after and not self.dead:
                self.dead = True
                self.rig.server.next[Role.JOURNAL] = self.stored + 1
                del self.rig.server.journal[self.stored :]
        return self.real(buffers)


@pytest.mark.parametrize("after", range(1, BATCHES))
@pytest.mark.parametrize("stored", range(BATCHES))
def test_what_a_dead_server_had_acknowledged_is_sent_to_the_next(after: int, stored: int) -> None:
    rig = Rig(lambda call: None)
    Dying(rig, after, min(stored, after))
    assert rig.run() == list(range(1, BATCHES + 1))


def test_batches_whose_answers_were_lost_are_kept_as_well() -> None:
    rig = Rig(lambda call: None)
    head = rig.backlog.head(0)
    assert head is not None
    for batch in (head, *rig.backlog.behind_head(2)):
        rig.server.send_encoded(batch.buffers)
    rig.sender._bandwidth.limit = 1 << 40  # one after another, so that the server dies between two
    Dying(rig, after=3, stored=1)
    assert rig.run() == list(range(1, BATCHES + 1))


def test_what_is_in_the_vault_is_kept_no_longer_and_its_loss_ends_the_epoch() -> None:
    rig = Rig(lambda call: None)
    dying = Dying(rig, after=4, stored=1)
    told = dying.real

    def in_the_vault(buffers: List[Buffer]) -> Acknowledgement:
        return told(buffers).model_copy(update={"stored_journal": 3})

    dying.real = in_the_vault  # type: ignore[assignment]
    with pytest.raises(Gap) as caught:
        rig.run()
    assert caught.value.expected == 2


def test_kept_batches_are_bounded_and_without_holes() -> None:
    journal = Journal(MACHINE, 1, FakeClock())
    batches = [journal.batch(piece(1, fill + 1)) for fill in range(6)]
    kept = Kept(most_bytes=3 * batches[0].size)
    for batch in batches[:5]:
        kept.add(batch)
    assert kept.since(batches[2].first, batches[4].end) == batches[2:5]
    assert kept.since(batches[1].first, batches[4].end) is None, "it was dropped"
    assert kept.since(batches[2].first, batches[5].end) is None, "it is not there yet"
    kept.stored(batches[3].first)
    assert kept.since(batches[2].first, batches[4].end) is None
    skipping = Kept()
    skipping.add(batches[0])
    skipping.add(batches[2])
    assert skipping.since(batches[0].first, batches[2].end) is None
    assert skipping.since(batches[2].first, batches[2].end) == [batches[2]]
