"""Independent NBD clients against our server: what they read, write and report is what there is."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from farshore.export.launch import ExportLauncher
from farshore.export.settings import ExportedDisk, ExportSettings, FileDisk
from farshore.model.errors import NotFound

MIB = 1 << 20
SIZE = 64 * MIB


def tool(*command: str) -> str:
    """Run a tool; what it said. A missing one skips, saying which."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


class Export:
    """Disk ``0`` read-only and ``1`` with an overlay, over one image, from a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = folder / "image.raw"
        order = random.Random(11)
        with self.image.open("wb") as file:
            file.truncate(SIZE)
            for at in range(0, SIZE, 4 * MIB):
                file.seek(at)
                file.write(order.randbytes(MIB + 4096))
        self.launcher = ExportLauncher()
        source = FileDisk(path=self.image)
        self.settings = ExportSettings(
            socket=folder / "nbd.sock",
            disks=(
                ExportedDisk(name="0", source=source),
                ExportedDisk(name="1", source=source, overlay=folder / "overlay"),
            ),
        )
        self.launcher.start(self.settings)

    def uri(self, name: str) -> str:
        return f"nbd+unix:///{name}?socket={self.settings.socket}"


@pytest.fixture
def export(tmp_path: Path) -> Iterator[Export]:
    made = Export(tmp_path)
    yield made
    made.launcher.stop(tmp_path)
    assert not made.settings.socket.exists()


def test_nbdinfo(export: Export) -> None:
    told = json.loads(tool("nbdinfo", "--json", "--list", f"nbd+unix://?socket={export.settings.socket}"))
    assert told["protocol"] == "newstyle-fixed"
    assert [found["export-name"] for found in told["exports"]] == ["0", "1"]
    assert [found["is_read_only"] for found in told["exports"]] == [True, False]
    for found in told["exports"]:
        assert found["export-size"] == SIZE
        assert found["can_multi_conn"]
        assert "base:allocation" in found["contexts"]
    extents = json.loads(tool("nbdinfo", "--json", "--map", export.uri("0")))
    assert [extent["type"] for extent in extents] == [0, 3] * 16
    assert sum(extent["length"] for extent in extents) == SIZE


def test_nbdcopy_and_compare(export: Export) -> None:
    copy = export.folder / "copy.raw"
    tool("nbdcopy", export.uri("0"), str(copy))
    assert copy.read_bytes() == export.image.read_bytes()
    assert copy.stat().st_blocks * 512 < SIZE / 2
    tool("qemu-img", "compare", "-f", "raw", "-F", "raw", export.uri("1"), str(export.image))


def test_nbdcopy_into_the_overlay(export: Export) -> None:
    other = export.folder / "other.raw"
    other.write_bytes(random.Random(3).randbytes(5 * MIB) + bytes(SIZE - 5 * MIB))
    before = hashlib.sha256(export.image.read_bytes()).digest()
    tool("nbdcopy", "--flush", "--destination-is-zero", str(other), export.uri("1"))
    tool("nbdcopy", "--flush", str(other), export.uri("1"))
    tool("qemu-img", "compare", "-f", "raw", "-F", "raw", export.uri("1"), str(other))
    assert hashlib.sha256(export.image.read_bytes()).digest() == before


def test_qemu_writes_and_reads_back(export: Export) -> None:
    commands = ("write -P 1 511 70000", "write -z 1M 3M", "discard 5M 1M", "write -f -P 2 10M 64k", "flush")
    checks = ("read -P 1 511 70000", "read -P 0 1M 3M", "read -P 0 5M 1M", "read -P 2 10M 64k")
    arguments = [piece for command in (*commands, *checks) for piece in ("-c", command)]
    said = tool("qemu-io", "-f", "raw", *arguments, export.uri("1"))
    assert "Pattern verification failed" not in said


def test_fio_verifies(export: Export) -> None:
    if "nbd" not in tool("fio", "--enghelp").split():
        pytest.skip("this fio has no nbd engine")
    tool(
        *("fio", "--name=verify", "--ioengine=nbd", f"--uri={export.uri('1')}", "--rw=randwrite", f"--size={SIZE}"),
        *("--bsrange=512-64k", "--blockalign=512", "--iodepth=16", "--io_size=32m", "--verify=crc32c"),
        *("--verify_fatal=1", "--verify_state_save=0", f"--aux-path={export.folder}"),
    )


def test_what_was_answered_survives_the_process(export: Export) -> None:
    """Killed without a flush, amid other writes: everything answered before is there."""
    tool("qemu-io", "-f", "raw", "-t", "unsafe", "-c", "write -P 9 3M 1M", export.uri("1"))
    writer = subprocess.Popen(
        ["fio", "--name=load", "--ioengine=nbd", f"--uri={export.uri('1')}", "--rw=randwrite", "--bs=4k",
         "--offset=32m", "--size=16m", "--iodepth=8", "--time_based", "--runtime=30"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=export.folder,
    )  # fmt: skip
    try:
        victim = int((export.folder / "export.pid").read_text())
        subprocess.run(["sleep", "0.7"], check=True)
        subprocess.run(["kill", "-9", str(victim)], check=True)
    finally:
        writer.wait(timeout=60)
    while export.launcher.serving(export.folder):
        subprocess.run(["sleep", "0.02"], check=True)
    export.launcher.start(export.settings)
    said = tool("qemu-io", "-f", "raw", "-c", "read -P 9 3M 1M", export.uri("1"))
    assert "Pattern verification failed" not in said


def test_start_is_idempotent_and_errors_come_back(export: Export, tmp_path: Path) -> None:
    before = (export.folder / "export.pid").read_text()
    export.launcher.start(export.settings)
    assert (export.folder / "export.pid").read_text() == before
    missing = ExportSettings(
        socket=tmp_path / "other" / "nbd.sock",
        disks=(ExportedDisk(name="0", source=FileDisk(path=tmp_path / "nothing")),),
    )
    with pytest.raises(NotFound, match="cannot be opened"):
        export.launcher.start(missing)
    assert not export.launcher.serving(tmp_path / "other")


def test_the_key_is_nowhere_to_be_seen(export: Export) -> None:
    process = (export.folder / "export.pid").read_text()
    secret = b"vault_key"
    for name in ("cmdline", "environ"):
        assert secret not in Path(f"/proc/{process}/{name}").read_bytes()
    assert b"image.raw" not in Path(f"/proc/{process}/cmdline").read_bytes()
