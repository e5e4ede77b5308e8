"""Where a disk may be restored to: a name works or is refused with the reason; only what was asked for stays."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.loopdisks import loop_disk, require_root
from tests.unit.export.memory_source import MemorySource
from tests.waiting import PATIENCE

from farshore.export.image.convert import ImageFormat, write_image
from farshore.model.errors import FarshoreError, NoSpace, NotFound, Refused, TryLater, Unsupported
from farshore.model.ports import Extent
from farshore.vault import restore_to_raw
from farshore.vault.reading import backup_gpt
from farshore.vault.reading.whole_file import whole_file

GOLDEN = Path(__file__).parents[2] / "formats" / "golden"
CONTENT = os.urandom(1 << 20)
MIB = 1 << 20


class Zeroes(MemorySource):
    """A disk of zeroes of any size."""

    def __init__(self, size):
        super().__init__(b"")
        self._size = size

    @property
    def size(self):
        return self._size

    def extents(self, offset, length):
        return iter([Extent(offset, length, zero=True)])


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def write(path: Path, format_: ImageFormat) -> None:
    """As the command does."""
    if format_ is ImageFormat.RAW:
        restore_to_raw(MemorySource(CONTENT), path)
    else:
        write_image(MemorySource(CONTENT), path, format_)


@pytest.mark.parametrize(
    "name", ["2026-11-25T12:00:00Z.img", "web1:sda", "-x.img", "json:{}", "a b,c=d#e%20?", "größe"]
)
@pytest.mark.parametrize("format_", list(ImageFormat))
def test_every_name_is_used_as_it_is_given(tmp_path, monkeypatch, name, format_):
    monkeypatch.chdir(tmp_path)
    write(Path(name), format_)
    assert names(tmp_path) == [name]
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    if format_ is ImageFormat.VMDK:
        assert f'SPARSE "{name}"'.encode() in (tmp_path / name).read_bytes()[:20_000]


@pytest.mark.parametrize("format_", list(ImageFormat))
def test_of_two_to_one_name_one_is_refused_and_the_other_whole(tmp_path, format_):
    path = tmp_path / "image"
    with whole_file(path, replace=False) as (handle, _):
        with pytest.raises(Refused, match="being written by another"):
            write(path, format_)
        os.write(handle, b"whole")
    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == ["image"]


@pytest.mark.parametrize("format_", [ImageFormat.RAW, ImageFormat.QCOW2])
def test_what_a_killed_restore_left_is_written_over(tmp_path, format_):
    (tmp_path / "image.part").write_bytes(b"x" * 9)
    write(tmp_path / "image", format_)
    assert names(tmp_path) == ["image"]


@pytest.mark.root
@pytest.mark.parametrize("format_", [ImageFormat.RAW, ImageFormat.QCOW2])
@pytest.mark.parametrize("name", ["/dev/sdzz", "/dev/mapper/vg9-data", "/dev/vg9/data", "/dev/disk/by-id/no"])
def test_a_device_that_is_not_there_is_refused(name, format_):
    require_root()
    with pytest.raises(NotFound, match=f"no device {name}"):
        write(Path(name), format_)
    assert not Path(name).exists()
    assert not Path(f"{name}.part").exists()


@pytest.mark.root
def test_a_link_to_a_device_that_is_not_there_is_refused_and_shared_memory_is_no_device(tmp_path):
    require_root()
    (tmp_path / "link").symlink_to("/dev/sdzz")
    with pytest.raises(Refused):
        write(tmp_path / "link", ImageFormat.RAW)
    shared = Path(f"/dev/shm/farshore-{os.getpid()}")
    try:
        write(shared, ImageFormat.RAW)
        assert shared.stat().st_size == len(CONTENT)
    finally:
        shared.unlink(missing_ok=True)


def refusals(folder: Path) -> Iterator[tuple[Path, str]]:
    """Places that will not do, however often one repeats, and the reason."""
    yield folder / "missing" / "image", "no folder"
    yield folder / ("x" * 252), "too long"
    yield folder / ("x" * 300), "too long"
    (folder / "file").write_bytes(b"")
    yield folder / "file" / "image", "is not a folder"
    yield folder / "file", "exists"


@pytest.mark.parametrize("format_", [ImageFormat.RAW, ImageFormat.QCOW2])
def test_what_will_not_do_is_no_reason_to_repeat(tmp_path, format_):
    for path, reason in refusals(tmp_path):
        with pytest.raises(FarshoreError, match=reason) as refused:
            write(path, format_)
        assert not isinstance(refused.value, TryLater), path
        assert "repeat" not in str(refused.value)


def test_a_file_system_that_holds_no_file_as_large(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30, hard))
    try:
        with pytest.raises(Unsupported, match="not support files of that size"):
            restore_to_raw(Zeroes(5 << 30), tmp_path / "image")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


@pytest.mark.root
@pytest.mark.parametrize("format_", [ImageFormat.RAW, ImageFormat.QCOW2])
def test_a_file_system_that_is_read_only_or_full(format_):
    require_root()
    with loop_disk(16 * MIB, "ext4") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
        with pytest.raises(Refused, match="read-only"):
            write(disk.folder / "image", format_)
        subprocess.run(["mount", "-o", "remount,rw", str(disk.folder)], check=True)
        with contextlib.suppress(OSError), (disk.folder / "ballast").open("wb", buffering=0) as ballast:
            while ballast.write(bytes(MIB // 8)):
                pass
        with pytest.raises(NoSpace) as full:
            write(disk.folder / "image", format_)
        assert "repeat" in full.value.remedy
        assert "image.part" not in names(disk.folder)


def test_a_vhd_holds_2040_gib(tmp_path):
    with pytest.raises(Unsupported, match="2040 GiB at most"):
        write_image(Zeroes(2041 << 30), tmp_path / "image", ImageFormat.VHD)
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("format_", [ImageFormat.RAW, ImageFormat.QCOW2])
def test_a_restore_that_is_ended_leaves_nothing(tmp_path, format_, number):
    vault = tmp_path / "vault"
    shutil.copytree(GOLDEN / "vault-1", vault)
    shutil.copy(GOLDEN / "owner.key", tmp_path / "owner.key")
    (tmp_path / "owner.key").chmod(0o600)
    held = [path for path in (vault / "chunks").rglob("*") if path.is_file()]
    for path in held:  # whoever reads one waits until somebody opens the other end
        path.unlink()
        os.mkfifo(path)
    (tmp_path / "out").mkdir()
    command = ["restore", "--vault", f"file://{vault}", "--key", str(tmp_path / "owner.key"), "--disk", "0"]
    command += ["--format", format_.value, "--output", str(tmp_path / "out" / "image")]
    process = subprocess.Popen([sys.executable, "-m", "farshore.cli.main", "vault", *command], stderr=subprocess.PIPE)
    with process:
        wait_for(process, lambda: (tmp_path / "out" / "image.part").exists() and list((vault / "leases").iterdir()))
        process.send_signal(number)
        until = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < until:
            for path in held:
                with contextlib.suppress(OSError):  # nobody reads it now
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            time.sleep(0.01)
    assert process.returncode not in (0, -number, None)
    assert names(tmp_path / "out") == []
    assert names(vault / "leases") == []


def wait_for(process, reached) -> None:
    until = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < until, "it did not begin"
        time.sleep(0.01)


@pytest.mark.root
def test_on_a_larger_device_the_backup_of_the_partition_table_can_be_moved(tmp_path):
    require_root()
    image = tmp_path / "disk"
    image.write_bytes(bytes(8 * MIB))
    subprocess.run(["sgdisk", "--clear", "--new=1:2048:4095", str(image)], check=True, capture_output=True)
    with loop_disk(16 * MIB) as target:
        restore_to_raw(MemorySource(image.read_bytes()), target.device)
        assert backup_gpt.misplaced(target.device, 8 * MIB)
        assert not backup_gpt.misplaced(target.device, 16 * MIB)
        backup_gpt.move(target.device)
        end = target.read()[-512:].tobytes()
        assert end.startswith(b"EFI PART")
        said = subprocess.run(["sgdisk", "--verify", str(target.device)], check=True, capture_output=True, text=True)
        assert "No problems found" in said.stdout


def test_an_empty_disk_is_passed_over_in_runs_and_not_in_steps(tmp_path):
    """One of 2 TiB took 100 s and 1.15 GB, for half a million steps that were all begun at once."""
    source, asked, told = Zeroes(2 << 40), [], []
    extents = source.extents
    source.extents = lambda offset, length: asked.append(offset) or extents(offset, length)
    assert restore_to_raw(source, tmp_path / "disk", lambda done, _total: told.append(done)) == 0
    assert (tmp_path / "disk").stat().st_size == 2 << 40
    assert len(asked) == 1
    assert told == [2 << 40]


class Alternating(MemorySource):
    """Data and zeroes in turns that no step's size divides; at most so many reads may be under way."""

    running, most = 0, 0

    def read_into(self, offset, buffer):
        with LOCK:
            self.running += 1
            self.most = max(self.most, self.running)
        super().read_into(offset, buffer)
        with LOCK:
            self.running -= 1


LOCK = threading.Lock()


def test_data_between_runs_of_zeroes_comes_out_exact(tmp_path):
    piece = os.urandom(4096)
    data = bytearray(40 * MIB + 512)
    for start in [0, 4 * MIB - 2048, 9 * MIB + 4096, 12 * MIB - 4096, 31 * MIB, 36 * MIB - 1024, 40 * MIB - 4096]:
        data[start : start + 4096] = piece
    data[-512:] = piece[:512]
    source = Alternating(bytes(data))
    assert restore_to_raw(source, tmp_path / "disk") > 0
    assert (tmp_path / "disk").read_bytes() == data
    assert source.most <= 3


def test_a_folder_that_takes_no_files_is_not_said_to_be_missing():
    with (
        pytest.raises(NotFound, match="No file can be created in /proc"),
        whole_file(Path("/proc/disk.raw"), replace=False),
    ):
        pass
