"""Upgrades of the agent under fire, some of them killed on the way.

Faults may make an upgrade fail. But its job always ends; then the running release is the one that the service starts,
and no file of the hand-over is left. Writes between the two processes were noted, so nothing is compared.
"""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.crash.fire.plant import Layout, Plant
from tests.crash.fire.two_releases import TwoReleases, Upgrade
from tests.waiting import PATIENCE

from farshore.api_types.jobs import Job
from farshore.mobility.capture.pinned import pin_folder_of
from farshore.model.errors import FarshoreError
from farshore.model.states import JobState

GIVES_WAY, GOES_ON = (
    "This agent is being replaced by another release.",
    "The stream continues where it was handed over.",
)
_ORDER_SECONDS, _LOOK_SECONDS = 60.0, 1.0
_ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)

Act = Callable[[Plant, random.Random], None]
Stage = Callable[[Plant, Upgrade], bool]


def order(plant: Plant, _chance: random.Random) -> None:
    """Ask for the release that does not run, unless an upgrade is under way."""
    releases = _releases(plant)
    if releases.ordered and not _is_over(plant, releases.ordered[-1]):
        plant.say("an upgrade is under way already")
        return
    upgrade = releases.offer_other()
    releases.ordered.append(upgrade)
    releases.ordering = threading.Thread(target=_insist, args=(plant, upgrade), daemon=True)
    releases.ordering.start()


def kill(name: str, stage: Stage, *, later: float = 0) -> Act:
    """Kill the agent once its upgrade has got that far, up to ``later`` seconds after, or has ended; then the service
    starts it. Other faults last longer meanwhile."""

    def heal(plant: Plant, chance: random.Random) -> None:
        upgrade = _releases(plant).ordered[-1]
        give_up = time.monotonic() + PATIENCE
        look = 0.0
        while not (there := stage(plant, upgrade)) and time.monotonic() < give_up:
            if time.monotonic() > look:
                plant.look_after()
                if _is_over(plant, upgrade):
                    break
                look = time.monotonic() + _LOOK_SECONDS
            time.sleep(0.002)
        time.sleep(chance.uniform(0, later))
        plant.agent.kill()
        plant.say(f"upgrade killed {name}" if there else f"agent killed; the upgrade was not {name}")
        plant.agent.start()

    return heal


def unpacking(plant: Plant, upgrade: Upgrade) -> bool:
    """Stage: the release was fetched."""
    return _releases(plant).is_unpacking(upgrade)


def on_trial(plant: Plant, upgrade: Upgrade) -> bool:
    """Stage: the release is there and tried out."""
    return _releases(plant).has_unpacked(upgrade)


def handing_over(plant: Plant, _upgrade: Upgrade) -> bool:
    """Stage: the old release ends, the new one begins."""
    return plant.handover.exists()


def settling(plant: Plant, upgrade: Upgrade) -> bool:
    """Stage: the service starts the new release from now on; the server may not know yet."""
    return _releases(plant).current == upgrade.to


def settle(plant: Plant) -> None:
    """Wait for the end of the round's upgrades; what is wrong then is the plant's violation."""
    if plant.releases is None or not plant.releases.ordered:
        return
    releases = plant.releases
    ordered, releases.ordered = releases.ordered, []
    for upgrade in ordered:
        try:
            plant.until(functools.partial(_is_over, plant, upgrade), PATIENCE)
        except TimeoutError as error:
            plant.violations.append(f"the upgrade to {upgrade.to} has not ended: {error}")
            return
        plant.say(f"upgrade from {upgrade.before} to {upgrade.to} {_told(upgrade)}")
    wrong: list[str] = []

    def is_well() -> bool:
        wrong[:] = _look(plant, ordered[-1])
        return not wrong

    try:
        plant.until(is_well, PATIENCE)  # the result comes before the next report
    except TimeoutError:
        plant.violations += wrong
    if plant.layout is not Layout.ROUNDS:  # each of its epochs compares
        text = plant.agent.log.read_text(errors="replace")
        plant.violations += judge_hand_overs(text[releases.judged :])
        releases.judged = len(text)


def judge_end(upgrade: Upgrade, runs: str, starts: str, left: list[Path]) -> list[str]:
    """What is wrong once it has ended, where release ``runs`` is at work and the service starts ``starts``. ``left``:
    files of a hand-over that still exist."""
    wrong = [f"{path} is left of a hand-over" for path in left]
    if runs != starts:
        wrong.append(f"release {runs} runs, and the service starts {starts}")
    done = upgrade.ended is not None and upgrade.ended.state is JobState.SUCCEEDED
    if starts != (upgrade.to if done else upgrade.before):
        changed = f"from {upgrade.before} to {upgrade.to}"
        wrong.append(f"the upgrade {changed} {_told(upgrade)}, but the service starts {starts}")
    return wrong


def judge_hand_overs(log: str) -> list[str]:
    """What is wrong in the agent's log: each time a release gave way, the stream has to go on before the next time."""
    after = log.split(GIVES_WAY)[1:]
    return [f"after a hand-over the stream did not go on: {said[-1500:]}" for said in after if GOES_ON not in said]


def _told(upgrade: Upgrade) -> str:
    return (
        "was not taken" if upgrade.ended is None else f"has {upgrade.ended.state.value} {upgrade.ended.error}".rstrip()
    )


def _look(plant: Plant, upgrade: Upgrade) -> list[str]:
    shown = plant.shown()
    if shown is None:
        return ["nobody answers after an upgrade"]
    left = [path for path in (plant.handover, pin_folder_of(plant.machine)) if path.exists()]
    return judge_end(upgrade, shown.agent, _releases(plant).current, left)


def _releases(plant: Plant) -> TwoReleases:
    assert plant.releases is not None
    return plant.releases


def _insist(plant: Plant, upgrade: Upgrade) -> None:
    give_up = time.monotonic() + _ORDER_SECONDS
    # The agent refuses while a copy is under way.
    while not plant.is_protected() and time.monotonic() < give_up:
        time.sleep(1)
    give_up += _ORDER_SECONDS
    while not upgrade.job and time.monotonic() < give_up:
        try:
            with plant.api() as api:
                upgrade.job = api.transport.post(f"/v1/machines/{plant.machine}/upgrade", None, Job).id
        except FarshoreError:
            time.sleep(1)


def _is_over(plant: Plant, upgrade: Upgrade) -> bool:
    """Whether the server did not take the order, or has told how its job ended."""
    if not upgrade.job:
        ordering = _releases(plant).ordering
        return ordering is None or not ordering.is_alive()
    if upgrade.ended is None:
        try:
            with plant.api() as api:
                job = api.job(upgrade.job)
        except FarshoreError:
            return False
        upgrade.ended = job if job.state in _ENDED else None
    return upgrade.ended is not None
