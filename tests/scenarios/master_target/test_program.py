"""The program itself, on real disks: files, an image, a device; beside a QEMU that has the disk, and a mount."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.held_keys import held_keys
from tests.loopdisks import loop_disk, require_root, run
from tests.unit.vault.synthetic import Machine, new_vault
from tests.waiting import until

from farshore.master_target.errand_process import MODULE
from farshore.model.home_task import DiskPlace, Errand, HomeTask
from farshore.vault import OwnerKey, Vault, open_store

SIZE = (4 << 20) + 512
QEMU = ["qemu-system-x86_64", "-S", "-display", "none", "-nodefaults", "-accel", "tcg", "-m", "64", "-monitor", "stdio"]


def difference(path: Path, expected: bytes | bytearray) -> int | None:
    """The first block that is another one; pytest would compare the disks line by line."""
    run(f"blockdev --flushbufs {path}" if path.is_block_device() else "true")
    found = path.read_bytes()
    return next((at for at in range(0, max(len(found), len(expected)), 4096)
                 if found[at : at + 4096] != expected[at : at + 4096]), None)  # fmt: skip


@contextlib.contextmanager
def guest(drive: list[str]) -> Iterator[None]:
    """A QEMU that has the disk open."""
    with subprocess.Popen([*QEMU, *drive], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert b"monitor" in process.stdout.readline()  # it greets: its disks are open
            yield
        finally:
            process.kill()


class Home:
    """A vault in a folder, the settings of a master target, and one machine's old disk."""

    def __init__(self, folder: Path, disk: Path, format_: str = "raw", size: int = SIZE) -> None:
        self.folder, self.disk = folder, disk
        vault, _ = new_vault(folder)
        self.machine = machine = Machine(vault, 41, {0: size})
        machine.fill()
        machine.disks[0][510:512] = b"\x55\xaa"  # a partition table, told by its signature
        machine.begin_epoch(None)
        self.old = bytearray(machine.disks[0])
        self.old[700_000:704_096] = b"\xaa" * 4096
        machine.journal(segments=2, batches=1, count=20)
        self.settings = folder / "settings.toml"
        self.settings.write_text(
            f'vault = "file://{folder}/vault"\nkey = "{folder}/owner.key"\nstate = "{folder}/state"\ninterval = 0.2\n'
            f'[[disks]]\nmachine = "web1"\ndisk = 0\npath = "{disk}"\nformat = "{format_}"\n'
        )

    @property
    def truth(self) -> bytes:
        return self.machine.states[max(self.machine.states)][0]

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "farshore.master_target.main", "--settings", str(self.settings), *words]

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=200)

    @contextlib.contextmanager
    def service(self) -> Iterator[None]:
        """The program at work."""
        with (self.folder / "log").open("w") as log, subprocess.Popen(self.command("run"), stderr=log) as process:
            try:
                yield
            except BaseException:
                process.kill()
                raise
            process.terminate()
            assert process.wait(200) == 0, (self.folder / "log").read_text()

    def ok(self, *words: str) -> str:
        done = self.call(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def refused(self, match: str, *words: str) -> None:
        done = self.call(*(words or ("begin", "web1")))
        assert done.returncode == 2, (done.stdout, done.stderr)
        assert match in done.stderr

    def may_overwrite(self) -> None:
        self.settings.write_text(self.settings.read_text() + "overwrite = true\n")

    def shown(self) -> dict[str, object]:
        return dict(json.loads(self.ok("show", "--json"))[0])

    def is_at_newest(self) -> bool:
        row = self.shown()
        return row["phase"] == "following" and row["position"] == str(max(self.machine.states))


def test_a_machine_comes_home_by_commands(tmp_path: Path) -> None:
    home = Home(tmp_path, tmp_path / "old.raw")
    home.disk.write_bytes(home.old)
    home.ok("check", str(home.disk))
    home.refused("No disks are being written", "finish", "web1")
    machine = home.ok("begin", "web1")
    assert machine == home.machine.id
    home.refused("being written already", "begin", "web1")
    with home.service():
        until(home.is_at_newest, "at the newest position", pause=0.5)
        home.machine.journal(segments=1, batches=1, count=20)
        until(home.is_at_newest, "at the newest position", pause=0.5)
        done = home.call("check", str(home.disk))
        assert done.returncode == 2
        assert f"disk 0 of machine {machine}" in done.stderr
        home.machine.journal(segments=1, batches=1, count=20)
        assert home.ok("finish", machine) == str(max(home.machine.states))
    home.ok("check", str(home.disk))
    assert difference(home.disk, home.truth) is None
    assert home.shown()["may_be_started"] is True
    # Again, with nobody at work: finish does it itself.
    home.machine.journal(segments=1, batches=1, count=20)
    home.may_overwrite()  # by now its random writes may have hit the partition table
    home.ok("begin", "web1")
    assert home.ok("finish", machine, "--position", str(max(home.machine.states)))
    assert difference(home.disk, home.truth) is None
    home.ok("forget", machine)
    assert home.ok("show") == ""


def test_an_image_comes_home_through_qemu(tmp_path: Path) -> None:
    home = Home(tmp_path, tmp_path / "old.qcow2", "qcow2")
    raw = tmp_path / "raw"
    raw.write_bytes(home.old)
    run(f"qemu-img convert -f raw -O qcow2 {raw} {home.disk}")
    with guest(["-drive", f"file={home.disk},format=qcow2,if=virtio"]):
        home.refused("cannot be written through QEMU")
    home.ok("begin", "web1")
    home.ok("finish", home.machine.id)
    run(f"qemu-img check {home.disk}")
    run(f"qemu-img convert -f qcow2 -O raw {home.disk} {raw}")
    assert difference(raw, home.truth) is None


def test_a_disk_of_a_machine_that_runs_is_refused_and_none_runs_from_one_that_is_written(tmp_path: Path) -> None:
    home = Home(tmp_path, tmp_path / "old.raw")
    home.disk.write_bytes(home.old)
    drive = ["-drive", f"file={home.disk},format=raw,if=virtio"]
    with guest(drive):
        home.refused("QEMU or another master target has locked it")
    assert difference(home.disk, home.old) is None
    home.ok("begin", "web1")
    with home.service():
        until(home.is_at_newest, "at the newest position", pause=0.5)
        guest_too = subprocess.run(
            [*QEMU, *drive], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert guest_too.returncode == 1
        assert "lock" in guest_too.stderr


@pytest.mark.root
def test_a_device_comes_home_and_one_that_is_mounted_is_refused(tmp_path: Path) -> None:
    require_root()
    size = 16 << 20
    with loop_disk(size, "ext4") as disk:
        home = Home(tmp_path, disk.device, size=size)
        home.refused("is in use: it or a part of it is mounted")
        disk.unmount()
        try:
            home.refused("is not recognised as disk 0")
            home.may_overwrite()
            home.ok("begin", "web1")
            home.ok("finish", home.machine.id)
            assert difference(disk.device, home.truth) is None
        finally:
            run(f"mkfs.ext4 -q -F {disk.device}")
            disk.mount()


@pytest.mark.root
def test_a_file_that_a_loop_device_is_made_of_is_refused(tmp_path: Path) -> None:
    require_root()
    with loop_disk(8 << 20) as disk:
        home = Home(tmp_path, disk.image, size=8 << 20)
        done = home.call("begin", "web1")
        assert done.returncode == 2
        assert f"it backs {disk.device}" in done.stderr
        assert os.access(disk.image, os.W_OK)


def test_an_errand_ends_by_itself_and_with_whoever_asked_for_it(tmp_path: Path) -> None:
    home = Home(tmp_path, tmp_path / "old.raw")
    home.disk.write_bytes(home.old)
    vault = Vault.open(open_store(f"file://{tmp_path}/vault"), OwnerKey.from_file(tmp_path / "owner.key"))
    places = (DiskPlace(0, str(home.disk)),)

    def errand(what: Errand) -> subprocess.Popen[bytes]:
        position = str(max(home.machine.states))
        keys = held_keys(vault, home.machine.id)
        state = str(tmp_path / "state")
        task = HomeTask(what, f"file://{tmp_path}/vault", home.machine.id, state, places, keys, position)
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(task.encode())
        process.stdin.flush()
        return process

    for what in (Errand.LOOK, Errand.FOLLOW, Errand.FINISH, Errand.FINISH):
        with errand(what) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            said, complaints = process.stdout.read(), process.stderr.read()
            assert process.wait(100) == 0, (what, complaints)
        assert b"outcome" in said.splitlines()[-1], (what, complaints)
        assert (difference(home.disk, home.truth) is None) is (what is Errand.FINISH)
    with errand(Errand.FOLLOW) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(100) in (0, 70)
