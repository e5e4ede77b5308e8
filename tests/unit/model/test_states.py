"""The table of machine states: nothing is a dead end by accident, and a wrong step says what is possible."""

from __future__ import annotations

import pytest

from farshore.model.errors import WrongState
from farshore.model.states import MACHINE_TRANSITIONS, MachineState, check_transition


def test_every_state_has_its_row():
    assert set(MACHINE_TRANSITIONS) == set(MachineState)


def test_every_state_can_be_reached_and_left():
    assert set().union(*MACHINE_TRANSITIONS.values()) == set(MachineState)
    assert all(MACHINE_TRANSITIONS.values())


def test_a_wrong_step_names_the_right_ones():
    with pytest.raises(WrongState, match="initial-replication"):
        check_transition(MachineState.ENROLLED, MachineState.COMMITTED)


@pytest.mark.parametrize("state", MachineState)
def test_staying_is_always_allowed(state: MachineState):
    check_transition(state, state)
