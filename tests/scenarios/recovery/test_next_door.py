"""What a QEMU that its guest has taken over reaches of the other recovered machines' disks: nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.unit.recovery.test_steps import FAILOVER, OTHER, World

from farshore.delivery import served
from farshore.delivery.port import Consignment
from farshore.export.launch import ExportLauncher
from farshore.export.settings import ExportedDisk, ExportSettings, FileDisk
from farshore.recovery.steps.deliver import deliver
from farshore.sites.port import Way
from farshore.sites.qemu.confinement import Lending, confined

pytestmark = pytest.mark.root

TRY = """
own=$(dirname "$1")
test -S "$1" && echo own
ls "$own/.." >/dev/null 2>&1 && echo list
test -S "$own/../$2/nbd.sock" && echo other
true
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """As `farshore up` leaves it to its servers: closed itself, and a umask by which what is in it is not."""
    before = os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="fs-") as folder:
        yield Path(folder)
    os.umask(before)


def test_it_reaches_its_own_disks_and_no_other_machine_s(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shutil.which("setpriv"), sys.path
    world, exports = World(place), ExportLauncher()
    world.request(OTHER)
    disk = place / "disk"
    disk.write_bytes(bytes(1 << 20))

    def settings(consignment: Consignment) -> ExportSettings:
        socket = consignment.folder / "nbd.sock"
        source = ExportedDisk(name="0", source=FileDisk(path=disk), overlay=socket.parent / "disk-0")
        return ExportSettings(socket=socket, disks=(source,), shared=True)

    class AnyDisks:
        def sizes(self, _position: object) -> dict[int, int]:
            return {0: 1 << 20}

    monkeypatch.setattr(served, "export_settings", settings)
    monkeypatch.setattr(type(world.context), "machine_vault", lambda *_: SimpleNamespace(disks=AnyDisks()))
    object.__setattr__(world.context, "deliveries", {Way.SERVED: served.ServedDelivery(exports)})
    folders = [world.context.files(one).folder for one in (FAILOVER, OTHER)]
    try:
        for one in (FAILOVER, OTHER):
            deliver(world.context, one, "1:40")
        with Lending() as lending:
            Lending().socket(folders[1] / "nbd.sock")  # its machine runs too
            own = lending.socket(folders[0] / "nbd.sock")
            command = confined(["sh", "-c", TRY, "sh", own, OTHER], machine=FAILOVER)
            command = command[: command.index("-sandbox")]
            done = subprocess.run(command, pass_fds=lending.descriptors, cwd="/", capture_output=True, check=True)
        assert done.stdout.decode().split() == ["own"]
    finally:
        for folder in folders:
            exports.stop(folder)
        world.catalog.close()
