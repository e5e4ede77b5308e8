"""Who may send: asked once, asked again now and then, and never stopped because nobody answers."""

from __future__ import annotations

import pytest

from farshore.api_types.machines import Description, EpochKind
from farshore.api_types.servers import StreamGrant
from farshore.model.errors import FarshoreError, Fenced, NotFound, Unreachable
from farshore.model.identifiers import Epoch, MachineId
from farshore.model.machine import Firmware
from farshore.process_server.streams.grants import Grants

A, B = MachineId("a"), MachineId("b")


class Source:
    def __init__(self) -> None:
        self.errors: dict[tuple[str, int], FarshoreError] = {}
        self.asked: list[tuple[str, int]] = []

    def stream(self, machine: str, epoch: int) -> StreamGrant:
        self.asked.append((machine, epoch))
        if (machine, epoch) in self.errors:
            raise self.errors[machine, epoch]
        what = Description(
            hostname="x",
            firmware=Firmware.BIOS,
            processors=1,
            memory=1,
            operating_system="",
            kernel="",
            architecture="",
        )
        return StreamGrant(machine=machine, epoch=epoch, kind=EpochKind.INITIAL, description=what)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def grants(source: Source) -> Grants:
    return Grants(source)


def test_asked_once_then_remembered(source: Source, grants: Grants) -> None:
    assert grants.get(A, Epoch(1)) == grants.get(A, Epoch(1))
    assert source.asked == [(A, 1)]


@pytest.mark.parametrize("error", [NotFound("x", remedy=""), Fenced("x", remedy=""), Unreachable("x", remedy="")])
def test_what_was_never_granted_is_refused(source: Source, grants: Grants, error: FarshoreError) -> None:
    source.errors[A, 1] = error
    with pytest.raises(type(error)):
        grants.get(A, Epoch(1))


def test_a_newer_epoch_fences_older_ones_of_its_machine_only(grants: Grants) -> None:
    grants.get(A, Epoch(1))
    grants.get(B, Epoch(1))
    grants.get(A, Epoch(2))
    with pytest.raises(Fenced):
        grants.get(A, Epoch(1))
    grants.get(B, Epoch(1))


def test_what_changes_afterwards_comes_with_the_answer_to_a_report(source: Source, grants: Grants) -> None:
    for machine in (A, B):
        grants.get(machine, Epoch(1))
    grants.certificates({A: ["a1"]})
    grants.ask_rpo({A: 1.0, "unknown": 2.0})
    assert (grants.get(A, Epoch(1)).certificates, grants.get(A, Epoch(1)).asked_rpo) == (["a1"], 1.0)
    assert (grants.get(B, Epoch(1)).certificates, grants.get(B, Epoch(1)).asked_rpo) == (None, 5.0)
    assert source.asked == [(A, 1), (B, 1)], "nobody is asked again"


def test_what_was_forgotten_is_asked_again(source: Source, grants: Grants) -> None:
    grants.get(A, Epoch(1))
    grants.forget(A, Epoch(1))
    grants.forget(A, Epoch(1))
    source.errors[A, 1] = Fenced("x", remedy="")
    with pytest.raises(Fenced):
        grants.get(A, Epoch(1))
