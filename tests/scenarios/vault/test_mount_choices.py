"""`farshore vault mount` shows the state that was asked for, each way of asking, down to a single write."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.vault.synthetic import START, STEP, Machine, new_vault

from farshore.model.identifiers import PointId
from farshore.model.point import PointKind, RecoveryPoint
from farshore.vault.upkeep.compaction import Tiers, compact

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    if not shutil.which("nbdfuse") or not Path("/dev/fuse").exists():
        pytest.skip("needs nbdfuse and /dev/fuse")
    folder = tmp_path_factory.mktemp("vault")
    made = Machine(new_vault(folder)[0], 5, {0: 1 << 20})
    made.fill()
    made.begin_epoch(None)
    for _ in range(30):
        # A batch for each write: every single one has its known state.
        made.journal(segments=1, batches=8, count=1)
        if len(made.states) == 8 * 12 + 1:
            at = made.in_vault.points.latest()
            quiet = RecoveryPoint(
                PointId("q"), made.id, at.position, at.time, PointKind.APP_CONSISTENT, "before the upgrade"
            )
            made.in_vault.writing.put_point(quiet)
    compact(made.in_vault, Tiers(segments=4, fan=3))
    made.folder = folder
    return made


@pytest.mark.parametrize(
    ("choice", "sequence"),
    [
        ([], 240),
        (["--latest"], 240),
        (["--latest-processed"], 240),
        (["--latest-app-consistent"], 96),
        (["--point", "before the upgrade"], 96),
        (["--position", "1:101"], 101),
        (["--position", "1:102"], 102),
        (["--time", "{}"], 150),
    ],
)
def test_the_state_asked_for_is_shown(machine, tmp_path, choice, sequence):
    moment = START + (sequence + 1) * STEP + STEP // 2
    spoken = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment // 10**9)) + f".{moment % 10**9:09}Z"
    words = [word.format(spoken) for word in choice]
    vault = ["--vault", machine.vault.store.url, "--key", str(machine.folder / "owner.key"), "--json"]
    (tmp_path / "mount").mkdir()
    program = "from farshore.cli.vault import app; app()"
    command = [sys.executable, "-c", program, "mount", str(tmp_path / "mount"), *vault, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, "it ended"
            text += line
        told = json.loads(text)
        assert told["position"] == f"1:{sequence}"
        position = next(one for one in machine.states if one.sequence == sequence)
        seen = hashlib.sha256(Path(told["file"]).read_bytes()).digest()
        assert seen == hashlib.sha256(machine.states[position][0]).digest()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
