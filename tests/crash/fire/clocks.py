"""A machine that falls silent while its clock is off: its newest state must be seen to age."""

from __future__ import annotations

import random
import time

from tests.crash.fire.plant import Plant

_ARRIVE = 2.0
"""Seconds in which something with the wrong times reaches the servers."""
_SLACK = 3.0
"""Seconds: between what the agent sent last and its report, on a busy host."""


def fall_silent(plant: Plant, chance: random.Random) -> None:
    """Set the machine's clock, let some of its stream arrive, and stop the agent."""
    plant.agent.clock.set(chance.choice((-7200, -600, 600, 7200)))
    time.sleep(_ARRIVE)
    plant.agent.hold()
    plant.silent_since = time.monotonic()


def speak_again(plant: Plant, _chance: random.Random) -> None:
    """Let the agent go on; a state that looks younger than the silence has lasted is a violation."""
    silent = time.monotonic() - plant.silent_since
    shown = plant.shown()
    wrong = None if shown is None else too_young(shown.rpo_seconds, silent)
    if wrong:
        plant.violations.append(wrong)
    plant.agent.let_go()
    plant.agent.clock.set(0)


def too_young(rpo: float | None, silent: float) -> str:
    """What is wrong with an RPO that is shown after so many seconds of silence; empty: nothing is."""
    if rpo is None or rpo >= silent - _SLACK:
        return ""
    return f"the agent was silent for {silent:.1f} s, and the newest state is said to be {rpo:.1f} s old"
