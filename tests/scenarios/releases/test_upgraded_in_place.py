"""Installations as earlier releases left them go on under this one: vault, catalog, unfinished jobs and what runs.

``NAME.tar.xz`` is one, made by make_release.py from the release NAME. Keep them all, and add one with each release.
"""

from __future__ import annotations

import json
import multiprocessing
import tarfile
from pathlib import Path

import pytest
from tests.file_site import FileExports, Fuse
from tests.scenarios.releases import next_life
from tests.scenarios.releases.make_release import COMMITTED, NAMES, machine_id

RELEASES = sorted(Path(__file__).parent.glob("*.tar.xz"))
PROCESSES = multiprocessing.get_context("forkserver")


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def test_an_installation_goes_on(tmp_path: Path, release: Path) -> None:
    with tarfile.open(release) as archive:
        archive.extractall(tmp_path, filter="data")
    process = PROCESSES.Process(target=next_life.go_on, args=(tmp_path,))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    found = json.loads((tmp_path / "outcome.json").read_text())
    assert found == {
        "wrong at first": [],
        "cut off": [["failed", "protected"], "cancelled"],
        "committed": ["committed", "committed"],
        "runs at": {"web1": ["files", COMMITTED], "db1": ["", ""], "app1": ["", ""]},
        "at the site": [COMMITTED],
        "wrong at last": [],
        "db1": "succeeded",
        "app1": "succeeded",
        "states": {"web1": "unprotected", "db1": "failed-over", "app1": "failed-over"},
        "failovers": [
            [machine_id(1), "running"],
            [machine_id(2), "failed"],
            [machine_id(2), "running"],
        ],
        **{f"{name} is as it was": True for name in NAMES},
    }
    assert not FileExports(Fuse(0)).serving(tmp_path / "failovers" / COMMITTED)


def test_there_are_releases() -> None:
    assert RELEASES
