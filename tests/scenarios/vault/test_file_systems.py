"""What the file reader makes of each kind of volume, by name: vfat, btrfs over several disks, LUKS; and of links.

By user-mode Linux, where vfat and btrfs want modules loaded by hand, and by the appliance. ``test_files.py`` has some
of it for the gate.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.scenarios.vault.test_files import (
    SIZE,
    START,
    WAYS,
    disk_with_a_partition,
    loop_at,
    made,
    over_two,
)
from tests.scenarios.vault.test_files import tools as tools

from farshore.export.files.reader import FileReader, file_reader
from farshore.export.raw_file import RawFileSource
from farshore.model.errors import Refused
from farshore.model.identifiers import DiskNumber

__all__ = ["tools"]

pytestmark = [pytest.mark.root, pytest.mark.soak]
SYSTEM, EFI, FIRST, SECOND, LOCKED = range(5)
"""The disks."""
LETTER = "Überweisung März.txt"
LINK_TIME, FOLDER_TIME = 1_500_000_000_654_321_987, 1_400_000_000_123_456_789


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A system whose table names its /boot/efi, and a btrfs over two disks; a disk that is locked."""
    folder = tmp_path_factory.mktemp("disks")
    system, first, second, locked = (disk_with_a_partition(folder / name) for name in ("sys", "b1", "b2", "luks"))
    with made("ext4", system, folder / "mounted") as root:
        for made_here in ("etc", "boot/efi", "srv/pool"):
            (root / made_here).mkdir(parents=True)
        table = "/dev/sda1 / ext4 defaults 0 1\n/dev/sdb1 /boot/efi vfat umask=0077 0 1\n"
        (root / "etc/fstab").write_text(f"{table}/dev/sdc1 /srv/pool btrfs defaults 0 0\n")
        write_links(root / "links")
    with over_two([first, second], folder / "mounted") as root:
        (root / "large").write_bytes(bytes(range(256)) * 32_768)  # longer than a stripe: it is on both
    (folder / "letters/EFI").mkdir(parents=True)
    (folder / "letters/EFI" / LETTER).write_text("paid\n")
    efi = folder / "efi"
    # A partition with vfat by nbdkit: the host's kernel may not have it.
    command = ["nbdkit", "--exit-with-parent", "floppy", f"dir={folder / 'letters'}", "--run", f'nbdcopy "$uri" {efi}']
    subprocess.run(command, check=True, capture_output=True)
    (folder / "key").write_bytes(os.urandom(32))
    with loop_at(locked, START, SIZE) as loop:
        quickly = ("--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
        command = ["cryptsetup", "luksFormat", "--batch-mode", *quickly, loop, str(folder / "key")]
        subprocess.run(command, check=True, capture_output=True)
    return [system, efi, first, second, locked]


def write_links(folder: Path) -> None:
    """Links to something and to nothing, of another owner, and times to the nanosecond."""
    folder.mkdir()
    (folder / "target").write_text("here\n")
    for name, to in (("right", "target"), ("dangling", "/nowhere/at/all"), ("outside", "../../../../etc/passwd")):
        (folder / name).symlink_to(to)
        os.lchown(folder / name, 123, 456)
        os.utime(folder / name, ns=(1, LINK_TIME), follow_symlinks=False)
    os.utime(folder, ns=(1, FOLDER_TIME))


@pytest.fixture(scope="module", params=WAYS)
def reader(request: pytest.FixtureRequest, disks: list[Path]) -> Iterator[FileReader]:
    sources = {DiskNumber(number): RawFileSource(disk) for number, disk in enumerate(disks)}
    names = {f"sd{letter}": DiskNumber(number) for number, letter in enumerate("abcde")}
    with file_reader(sources, names, request.param) as opened:
        yield opened


def test_a_vfat_partition_is_mounted_where_the_machine_has_it(reader: FileReader, tmp_path: Path) -> None:
    entries, left_out = reader.entries("/boot/efi/EFI")
    assert [one.name for one in entries] == [LETTER]
    assert left_out == []
    assert reader.copy("/boot/efi", tmp_path / "efi").missing == []
    assert (tmp_path / "efi/EFI" / LETTER).read_text() == "paid\n"


def test_a_btrfs_over_several_disks_is_one_volume_and_is_read_whole(reader: FileReader, tmp_path: Path) -> None:
    kinds = {one.name: one.file_system for one in reader.volumes()[0]}
    assert (kinds[f"{FIRST}p1"], f"{SECOND}p1" in kinds) == ("btrfs", False)
    for number, (path, volume) in enumerate((("/srv/pool/large", ""), ("/large", f"{FIRST}p1"))):
        copied = reader.copy(path, tmp_path / str(number), volume)
        assert (copied.left_out, copied.missing) == ([], [])
        assert (tmp_path / str(number)).read_bytes() == bytes(range(256)) * 32_768


def test_a_luks_volume_is_called_encrypted_and_costs_no_other(reader: FileReader) -> None:
    volumes, left_out = reader.volumes()
    kinds = {one.name: one.file_system for one in volumes}
    assert (kinds[f"{LOCKED}p1"], kinds[f"{SYSTEM}p1"]) == ("crypto_LUKS", "ext4")
    (said,) = [one for one in left_out if "encrypted" in one]
    assert f"{LOCKED}p1 is encrypted (LUKS)" in said
    with pytest.raises(Refused, match=rf"{LOCKED}p1 is encrypted \(LUKS\)"):
        reader.entries("/", volume=f"{LOCKED}p1")


def test_links_keep_where_they_lead_their_owner_and_their_times(reader: FileReader, tmp_path: Path) -> None:
    listed = {one.name: (one.kind, one.modified) for one in reader.entries("/links")[0]}
    assert {listed[name] for name in ("right", "dangling", "outside")} == {("link", LINK_TIME)}
    reader.copy("/links", tmp_path / "links")
    for name, to in (("right", "target"), ("dangling", "/nowhere/at/all"), ("outside", "../../../../etc/passwd")):
        link = tmp_path / "links" / name
        status = link.lstat()
        assert str(link.readlink()) == to
        assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (123, 456, LINK_TIME), name
    assert (tmp_path / "links").stat().st_mtime_ns == FOLDER_TIME
