"""An upgrade killed before each of its durable effects, and a power cut after its last: whatever is left can be started
by the service, and comes to an end that is told.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.mobility import dying_upgrade
from tests.crash.mobility.dying_upgrade import BUNDLE, COMMAND, RESULT
from tests.loopdisks import loop_disk, require_root

from farshore.api_types.commands import CommandResult, UpgradeArguments
from farshore.mobility.upgrade.releases import Releases

MIB = 1 << 20
OLD, NEW = "one", "two"
STARTS = 3
PROGRAM = "#!/bin/sh\nexit 0\n"
"""It is only tried out; what it would do is done by dying_upgrade.py."""
_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN: what is not on the disk by now is lost


def bundle(release: str, text: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        entry = tarfile.TarInfo(f"{release}/bin/farshore-mobility")
        entry.size, entry.mode = len(text), 0o755
        archive.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


class Agents:
    """Starts what ``current`` leads to, as the service manager does."""

    def __init__(self) -> None:
        command = [sys.executable, dying_upgrade.__file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, root: Path, die_at: int = 0) -> bool:
        """Whether it was killed; else it has ended well."""
        current = (root / "current").resolve()
        assert (current / "bin" / "farshore-mobility").read_text() == PROGRAM
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{root} {current.name} {die_at}\n")
        self._process.stdin.flush()
        ended = int(self._process.stdout.readline())
        assert ended in (0, -signal.SIGKILL)
        return ended != 0

    def close(self) -> None:
        self._process.communicate(timeout=300)


@pytest.fixture
def agents() -> Iterator[Agents]:
    made = Agents()
    yield made
    made.close()


def installation(root: Path) -> Path:
    """Release OLD is current, and the server wants NEW."""
    place = root / "releases" / OLD / "bin" / "farshore-mobility"
    place.parent.mkdir(parents=True)
    place.write_text(PROGRAM)
    place.chmod(0o755)
    (root / "current").symlink_to(Path("releases") / OLD)
    packed = bundle(NEW, PROGRAM)
    (root / BUNDLE).write_bytes(packed)
    wanted = UpgradeArguments(release=NEW, digest=hashlib.sha256(packed).hexdigest())
    (root / COMMAND).write_text(wanted.model_dump_json())
    return root


def test_a_kill_before_any_effect_leaves_what_can_be_started_and_comes_to_an_end(
    tmp_path: Path, agents: Agents
) -> None:
    ends: dict[str, int] = {}
    die_at = 1
    while True:
        root = installation(tmp_path / str(die_at))
        killed = agents.start(root, die_at)
        starts = 0
        while not (root / RESULT).exists():
            assert starts < STARTS, f"killed before effect {die_at}: it comes to no end"
            assert not agents.start(root)
            starts += 1
        failure = CommandResult.model_validate_json((root / RESULT).read_text()).failure
        error = failure.message if failure else ""
        current = (root / "current").resolve().name
        assert current == (OLD if error else NEW), f"killed before effect {die_at}: {error}"
        assert not (root / "handover.json").exists()
        assert (root / "releases" / NEW).exists() == (current == NEW)
        ends[error[:30]] = ends.get(error[:30], 0) + 1
        if not killed:
            break
        die_at += 1
    assert die_at > len(dying_upgrade.EFFECTS), "each kind of effect was killed"
    assert set(ends) == {"", "Release two ended before it worked"[:30]}, "both ends were come to"


@pytest.mark.root
def test_a_power_cut_after_the_upgrade_leaves_the_new_release_whole() -> None:
    require_root()
    with loop_disk(64 * MIB, "ext4") as disk:
        root = installation(disk.folder)
        os.sync()  # the old one has been there for long
        text = PROGRAM + "#" * MIB
        packed = bundle(NEW, text)
        Releases(root, OLD).install(NEW, hashlib.sha256(packed).hexdigest(), packed)
        Releases(root, NEW).make_current()
        cut_power(root)
        disk.unmount()
        disk.mount()
        assert (root / "current").resolve().name == NEW
        assert (root / "current" / "bin" / "farshore-mobility").read_text() == text


def cut_power(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("<I", _NO_LOG_FLUSH))
    finally:
        os.close(descriptor)
