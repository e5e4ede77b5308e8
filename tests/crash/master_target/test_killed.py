"""SIGKILL at every durable step, on real files: it goes on, and until the end no machine is started from the disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.vault.synthetic import Machine, new_vault

from farshore.formats.disk_notice import HELD
from farshore.master_target import images
from farshore.master_target.beginning import Wanted, begin
from farshore.master_target.record import Phase, RecordFolder
from farshore.model.errors import WrongState
from farshore.model.identifiers import DiskNumber
from farshore.sites.half_written import check_whole

SIZES = {0: (3 << 20) + 512, 1: 1 << 20}
SOAK = bool(os.environ.get("FARSHORE_SOAK"))


class Home:
    """A vault with a machine, and its old disks at home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        vault, _ = new_vault(folder)
        self.machine = machine = Machine(vault, 31, SIZES)
        machine.fill()
        machine.begin_epoch(None)
        for number, data in machine.disks.items():
            old = bytearray(data)
            old[500_000:504_096] = b"\xaa" * 4096
            (folder / f"old-{number}").write_bytes(old)
        machine.journal(segments=3, batches=1, count=30)
        machine.begin_epoch(max(machine.states), "resync", overlay=10)
        machine.journal(segments=2, batches=1, count=30)

    def disks(self, where: Path) -> list[Path]:
        return [where / f"old-{number}" for number in SIZES]

    def begin(self, where: Path) -> None:
        where.mkdir()
        for path in self.disks(self.folder):
            shutil.copyfile(path, where / path.name)
        wanted = [
            Wanted(DiskNumber(number), path, overwrite=True)
            for number, path in zip(SIZES, self.disks(where), strict=True)
        ]
        record = RecordFolder(where / "state")
        begin(self.machine.vault.id, self.machine.in_vault, record, wanted, (), images.opened)
        record.ask_to_finish(None)

    def run(self, where: Path, at: int) -> subprocess.CompletedProcess[str]:
        arguments = [f"file://{self.folder}/vault", self.folder / "owner.key", where / "state", self.machine.id, at]
        command = [sys.executable, "-m", "tests.crash.master_target.driver", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def is_home(self, where: Path) -> bool:
        state = self.machine.states[max(self.machine.states)]
        return all(path.read_bytes() == state[number] for number, path in enumerate(self.disks(where)))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


def test_killed_at_every_durable_step_it_goes_on(home: Home, tmp_path: Path) -> None:
    home.begin(tmp_path / "whole")
    first = home.run(tmp_path / "whole", 0)
    assert first.returncode == 0, first.stderr
    assert home.is_home(tmp_path / "whole")
    total = int(first.stdout)
    assert total > 40
    for at in range(1, total + 1, 1 if SOAK else 11):
        where = tmp_path / str(at)
        home.begin(where)
        before = [path.read_bytes() for path in home.disks(where)]
        killed = home.run(where, at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        state = home.machine.states[max(home.machine.states)]
        for number, path in enumerate(home.disks(where)):
            found = path.read_bytes()
            if found not in (before[number], state[number]):
                with pytest.raises(WrongState, match="half written"):
                    check_whole(path)
        done = home.run(where, 0)
        assert done.returncode == 0, done.stderr
        assert home.is_home(where), f"step {at} of {total}"
        for path in home.disks(where):
            check_whole(path)


def test_control_a_disk_that_was_not_finished_differs(home: Home, tmp_path: Path) -> None:
    home.begin(tmp_path / "one")
    first = home.run(tmp_path / "one", 30)
    assert first.returncode == -signal.SIGKILL
    assert not home.is_home(tmp_path / "one")
    assert RecordFolder(tmp_path / "one" / "state").load().disks[0].phase is not Phase.RELEASED
    assert home.disks(tmp_path / "one")[0].read_bytes()[512:HELD] == bytes(HELD - 512)
