"""One round of fire, always with the same seed: over each layout in the long set, over two in the gate.

``make soak`` runs rounds with random seeds for as long as wanted; ``python -m tests.crash.fire --layout … --seed …``
replays one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from tests.crash.fire.plant import Layout
from tests.crash.fire.rounds import installation, table
from tests.loopdisks import SCRATCH, require_data_mode

pytestmark = pytest.mark.root
GATED = (Layout.SINGLE, Layout.PAIR)
SEED = 52145
"""Of many seeds, one whose twelve faults are of twelve kinds: see test_judging.py. A new fault needs a new seed."""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "layout", [*GATED, *(pytest.param(one, marks=pytest.mark.soak) for one in Layout if one not in GATED)]
)
def test_points_hold_what_they_claim_whatever_befalls_the_installation(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    require_data_mode()
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="fire-", dir=SCRATCH) as folder,
        installation(Path(folder), SEED, layout) as fire,
    ):
        result = fire.run(SEED, print)
    said = table([result])
    with capsys.disabled():
        print(f"\n{said}")
    assert not result.violations, said
    assert result.points
