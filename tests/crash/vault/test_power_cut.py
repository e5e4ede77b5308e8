"""A vault's folder survives a power cut at any moment: every object whose put had returned is there and whole.

The folder lies on ext4 on a disk whose writes are logged (QEMU's blklogwrites behind NBD and a loop device). A power
cut leaves what was written before the last flush, and any part of what was written since; such disks are made from the
log, mounted, and looked at. Without the store's fsync the same test finds losses.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.loopdisks import unmount
from tests.waiting import until

from farshore.vault.stores.folder import FolderStore

SIZE = 32 << 20
SECTOR = 512
FLUSH, FUA, DISCARD = 1, 2, 4
_SUPER, _ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")

TOOLS = ("qemu-storage-daemon", "nbdfuse", "losetup", "mkfs.ext4")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs all of {TOOLS}"),
]


class Done(NamedTuple):
    """A put or delete (``data`` None) that had returned when the log had ``entries`` entries; begun at ``began``."""

    name: str
    data: bytes | None
    began: int
    entries: int


class Logged:
    """A disk and the log of its writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"

    def entries(self) -> int:
        """How many writes are logged."""
        with self.log.open("rb") as file:
            return int(_SUPER.unpack(file.read(_SUPER.size))[2])

    def read(self) -> list[tuple[int, int, bytes]]:
        """Each write's flags, offset in bytes and data."""
        found = []
        with self.log.open("rb") as file:
            count = _SUPER.unpack(file.read(_SUPER.size))[2]
            file.seek(SECTOR)
            for _ in range(count):
                sector, sectors, flags, _ = _ENTRY.unpack(file.read(SECTOR)[: _ENTRY.size])
                data = b"" if flags & DISCARD else file.read(sectors * SECTOR)
                found.append((flags, sector * SECTOR, data))
        return found


@contextlib.contextmanager
def logged_disk(folder: Path) -> Iterator[tuple[Logged, Path]]:
    """A logged disk with a mounted ext4 file system; its folder."""
    disk, socket, fuse, mounted = folder / "disk", folder / "nbd.sock", folder / "fuse", folder / "mounted"
    disk.touch()
    os.truncate(disk, SIZE)
    (folder / "log").touch()
    fuse.mkdir()
    mounted.mkdir()
    with contextlib.ExitStack() as undo:
        options = {
            "--blockdev": [
                f"driver=file,node-name=disk,filename={disk}",
                f"driver=file,node-name=log,filename={folder / 'log'}",
                "driver=blklogwrites,node-name=logged,file=disk,log=log,log-super-update-interval=1",
            ],
            "--nbd-server": [f"addr.type=unix,addr.path={socket}"],
            "--export": ["type=nbd,id=export,node-name=logged,name=disk,writable=on"],
        }
        words = [word for option, values in options.items() for value in values for word in (option, value)]
        daemon = subprocess.Popen(["qemu-storage-daemon", *words])
        undo.callback(daemon.wait)
        undo.callback(daemon.terminate)
        until(socket.exists)
        client = subprocess.Popen(["nbdfuse", str(fuse / "disk"), f"nbd+unix:///disk?socket={socket}"])
        undo.callback(client.wait)
        undo.callback(subprocess.run, ["fusermount3", "-u", str(fuse)], check=True)
        until(lambda: (fuse / "disk").exists() and (fuse / "disk").stat().st_size == SIZE)
        with loop(fuse / "disk") as device:
            subprocess.run(["mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0", device], check=True)
            subprocess.run(["mount", device, str(mounted)], check=True)
            try:
                yield Logged(folder), mounted
            finally:
                unmount(mounted)


@contextlib.contextmanager
def loop(file: Path) -> Iterator[str]:
    """A loop device on a file."""
    made = subprocess.run(["losetup", "--show", "-f", str(file)], check=True, capture_output=True, text=True)
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def work(logged: Logged, store: FolderStore, seed: int) -> list[Done]:
    """Puts of all sizes, new folders, replacements and deletions."""
    chance = random.Random(seed)
    done: list[Done] = []
    there: list[str] = []
    for number in range(45):
        kind = chance.random()
        began = logged.entries()
        data: bytes | None = chance.randbytes(chance.choice([40, 3000, 70_000, 400_000]))
        if kind < 0.15 and there:
            name, data = there.pop(chance.randrange(len(there))), None
            store.delete(name)
        elif kind < 0.35 and there:
            name = chance.choice(there)
            store.put(name, [data])
        else:
            name = f"machines/{chance.randrange(6)}/kind-{chance.randrange(3)}/{number:04}"
            there.append(name)
            assert store.put_if_absent(name, [data])
        done.append(Done(name, data, began, logged.entries()))
    return done


def lost(logged: Logged, done: list[Done], folder: Path, seed: int, cuts: int) -> list[str]:
    """What is missing or wrong after power cuts at random moments."""
    chance = random.Random(seed)
    writes = logged.read()
    wrong: list[str] = []
    moments = sorted(chance.sample(range(done[0].began, len(writes)), cuts))
    image, durable, at = folder / "cut", bytearray(SIZE), 0
    (folder / "look").mkdir()
    pending: list[tuple[int, bytes]] = []
    for moment in moments:
        for flags, offset, data in writes[at:moment]:
            if flags & FLUSH:
                for place, piece in pending:
                    durable[place : place + len(piece)] = piece
                pending = []
            if flags & FUA:
                durable[offset : offset + len(data)] = data
            elif data:
                pending.append((offset, data))
        at = moment
        cut = bytearray(durable)
        for place, piece in pending:
            if chance.random() < 0.5:
                cut[place : place + len(piece)] = piece
        image.write_bytes(cut)
        wrong.extend(look(image, folder / "look", done, moment))
    return wrong


def look(image: Path, folder: Path, done: list[Done], moment: int) -> list[str]:
    """Mount the disk as it was left, which replays its journal, and compare."""
    with loop(image) as device:
        subprocess.run(["mount", device, str(folder)], check=True)
        try:
            store = FolderStore(folder / "vault")
            found = {item.name: bytes(store.get(item.name)) for item in store.list("")}
        finally:
            unmount(folder)
    wrong = []
    for name in {one.name for one in done}:
        acknowledged = [one for one in done if one.name == name and one.entries <= moment]
        under_way = [one for one in done if one.name == name and one.began <= moment < one.entries]
        allowed = [one.data for one in (*acknowledged[-1:], *under_way)]
        if not acknowledged:
            allowed.append(None)
        if found.get(name) not in allowed:
            wrong.append(f"{name} after {moment} writes")
    return wrong


@pytest.mark.parametrize("synced", [True, False])
def test_nothing_acknowledged_is_lost(synced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with logged_disk(tmp_path) as (logged, mounted):
        if not synced:
            monkeypatch.setattr(os, "fsync", lambda _handle: None)
        done = work(logged, FolderStore(mounted / "vault"), seed=11)
        subprocess.run(["sync", "-f", str(mounted)], check=True)
        monkeypatch.undo()
    wrong = lost(logged, done, tmp_path, seed=5, cuts=40)
    if synced:
        assert done[-1].entries > 45
        assert wrong == []
    else:
        assert wrong
