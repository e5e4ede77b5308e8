"""The lab's guest is a real machine: it boots, works under load, dies by SIGKILL and recovers by itself."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from farshore.lab.command import QEMU
from farshore.lab.counter import Counter, Database, judge, rows
from farshore.lab.guest import Guest
from farshore.lab.image import HOST_TOOLS, GuestRecipe, ensure_image
from farshore.lab.load import pgbench_runs, start_pgbench, stop_pgbench

pytestmark = [pytest.mark.root, pytest.mark.guest, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def _host_is_able() -> None:
    missing = [tool for tool in (QEMU, *HOST_TOOLS) if shutil.which(tool) is None]
    if os.geteuid() != 0:
        missing.append("root")
    if missing:
        pytest.skip(f"a guest needs {', '.join(missing)}")


def test_guest_dies_under_load_and_recovers_from_its_own_disk(tmp_path: Path) -> None:
    image = ensure_image(GuestRecipe())
    with Guest(image, tmp_path / "guest") as guest:
        guest.start()
        guest.wait_until_up()
        guest.wait_for_database()
        assert guest.shell.run("cat /proc/swaps").output.count("\n") == 2
        guest.shell.copy(image.disk.parent / "recipe.json", "/root/copied")
        assert guest.shell.run("cat /root/copied").output == (image.folder / "recipe.json").read_text()
        assert guest.shell.run("exit 3", check=False).status == 3

        start_pgbench(guest.shell)
        database = Database(guest.ports.database, image.database_password())
        with Counter(database, tmp_path / "acknowledged") as counter:
            give_up = time.monotonic() + 120
            while len(counter.acknowledged()) < 10:
                assert time.monotonic() < give_up, "nothing is committed"
                time.sleep(0.5)
            assert pgbench_runs(guest.shell)
            guest.kill()
        acknowledged = counter.acknowledged()
        assert len(acknowledged) >= 10

        guest.start()
        guest.wait_until_up()
        guest.wait_for_database()
        stop_pgbench(guest.shell)
        # QEMU died, the host did not: whatever was committed lies in the disk's file.
        verdict = judge(acknowledged, rows(Database(guest.ports.database, image.database_password())))
        assert verdict.holes == ()
        assert verdict.lost == 0
        checked = guest.shell.run(
            "setpriv --reuid=postgres --init-groups --regid=postgres "
            "/usr/lib/postgresql/15/bin/pg_amcheck --all --heapallindexed"
        )
        assert "corrupt" not in checked.output
