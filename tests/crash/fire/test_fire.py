"""Some minutes of fire over each layout, with a seed of the day: what it finds is replayed by the line that it prints.

``make soak`` runs it for as long as wanted, ``python -m tests.crash.fire --layout … --seed …`` replays a round.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from tests.crash.fire.plant import Layout
from tests.crash.fire.rounds import Result, installation, table
from tests.loopdisks import SCRATCH, require_data_mode

pytestmark = pytest.mark.root
ROUNDS = 2


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layout", Layout)
def test_points_hold_what_they_claim_whatever_befalls_the_installation(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    require_data_mode()
    seed = random.SystemRandom().randrange(1, 1 << 31)
    results: list[Result] = []
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="fire-", dir=SCRATCH) as folder,
        installation(Path(folder), seed, layout) as fire,
    ):
        for number in range(ROUNDS):
            results.append(fire.run(seed + number, print))
    said = table(results)
    with capsys.disabled():
        print(f"\n{said}")
    assert not any(result.violations for result in results), said
    assert all(result.points for result in results)
