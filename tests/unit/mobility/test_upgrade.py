"""Releases side by side, and what one leaves to the next."""

from __future__ import annotations

import errno
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Dict, List, Optional

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from farshore.api_types.commands import UpgradeArguments
from farshore.api_types.machines import ReleaseSignature
from farshore.formats.release_statement import statement
from farshore.mobility.capture.disks import Disk
from farshore.mobility.capture.extents import SectorRange
from farshore.mobility.copying.protected_disks import ProtectedDisk
from farshore.mobility.settings import Settings
from farshore.mobility.upgrade import handover as handovers
from farshore.mobility.upgrade.handover import Handover
from farshore.mobility.upgrade.releases import Releases
from farshore.mobility.upgrade.trust import pin
from farshore.mobility.upgrade.upgrading import Upgrade
from farshore.model.errors import Damaged, Malformed, NoSpace, Refused, TryLater
from farshore.model.identifiers import DiskNumber
from farshore.model.position import Position

PROGRAM = "#!/bin/sh\necho tried $* >> {log}\n{body}\n"


def bundle(release: str, files: Dict[str, str], link: Optional[str] = None) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{release}/{name}" if not name.startswith("..") else name)
            entry.size, entry.mode = len(text), 0o755
            archive.addfile(entry, io.BytesIO(text.encode()))
        if link:
            entry = tarfile.TarInfo(f"{release}/{link}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc"
            archive.addfile(entry)
    return made.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    (tmp_path / "releases" / "one" / "bin").mkdir(parents=True)
    (tmp_path / "releases" / "older").mkdir()
    (tmp_path / "current").symlink_to("releases/one")
    return Releases(tmp_path, "one")


def test_sources_are_no_release() -> None:
    assert Releases.here() is None


def test_a_release_is_there_whole_and_becomes_current_by_itself(releases: Releases, tmp_path: Path) -> None:
    log = tmp_path / "log"
    data = bundle("two", {"bin/farshore-mobility": PROGRAM.format(log=log, body="exit 0")})
    releases.install("two", digest(data), data)
    releases.install("two", digest(data), data)  # again, over what may be left of an attempt
    assert sorted(path.name for path in (tmp_path / "releases").iterdir()) == ["older", "one", "two"]
    releases.try_out("two", ["--state", "/x"])
    assert log.read_text() == "tried --state /x check\n"
    Releases(tmp_path, "two").make_current()
    assert (tmp_path / "current").resolve().name == "two"
    assert sorted(path.name for path in (tmp_path / "releases").iterdir()) == ["one", "two"], "one to go back to stays"


@pytest.mark.parametrize(
    "data",
    [b"not an archive", bundle("three", {"x": ""}), bundle("two", {}, link="etc")],
    ids=["no archive", "another release", "a link"],
)
def test_what_is_no_bundle_of_that_release_is_refused_and_leaves_nothing(releases: Releases, data: bytes) -> None:
    with pytest.raises(Damaged):
        releases.install("two", digest(data), data)
    assert sorted(path.name for path in (releases.root / "releases").iterdir()) == ["older", "one"]


def test_nothing_is_written_outside(releases: Releases) -> None:
    data = bundle("two", {"../escaped": "x"})
    with pytest.raises(Damaged, match="unexpected file"):
        releases.install("two", digest(data), data)
    assert not list(releases.root.rglob("escaped"))


def test_another_bundle_than_was_announced_is_refused(releases: Releases) -> None:
    data = bundle("two", {"x": ""})
    with pytest.raises(Damaged, match="announced"):
        releases.install("two", digest(data + b"x"), data)


def test_a_release_that_does_not_work_here_is_told(releases: Releases, tmp_path: Path) -> None:
    data = bundle("two", {"bin/farshore-mobility": PROGRAM.format(log=tmp_path / "log", body="echo no BTF; exit 2")})
    releases.install("two", digest(data), data)
    with pytest.raises(Refused, match="no BTF"):
        releases.try_out("two", [])
    with pytest.raises(Refused, match="does not start"):
        releases.try_out("absent", [])


DISK = ProtectedDisk(DiskNumber(3), Disk("vdb", 254, 16, 1 << 30, sequence=5), (SectorRange(8, 16),))
LEFT = Handover("run", Position(4, 99), "command", ("one", "two"), (DISK,), {"folder": "/nowhere", "disks": []})


def test_a_handover_holds_for_this_boot_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "handover.json"
    assert Handover.load(path) is None
    LEFT.save(path)
    assert Handover.load(path) == LEFT
    monkeypatch.setattr(handovers, "boot", lambda: "another")
    later = Handover.load(path)
    assert later is not None
    assert (later.capture, later.command) == (None, "command"), "the result is told all the same"


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', "[]"])
def test_a_handover_that_is_not_understood_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "handover.json"
    path.write_text(text)
    path.chmod(0o600)
    assert Handover.load(path) is None


class ReplicationDouble:
    def __init__(self) -> None:
        self.current: Optional[object] = None
        self.asked = 0

    def hand_over(self, give_way: object) -> None:
        self.asked += 1
        raise TryLater("not now", remedy="")


class ServerDouble:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.key = Ed25519PrivateKey.generate()
        self.asked: List[str] = []

    def signature(self, release: str) -> ReleaseSignature:
        key = self.key.sign(statement(release, digest(self.data))).hex()
        return ReleaseSignature(release=release, digest=digest(self.data), signature=key)

    def bundle(self, release: str) -> bytes:
        self.asked.append(release)
        return self.data


def public_half(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


class Rig:
    def __init__(self, releases: Releases, handover: Optional[Handover], body: str = "exit 0") -> None:
        log = releases.root / "log"
        self.data = bundle("two", {"bin/farshore-mobility": PROGRAM.format(log=log, body=body)})
        self.replication, self.server = ReplicationDouble(), ServerDouble(self.data)
        self.settings = Settings(state=releases.root)
        pin(self.settings.release_key, public_half(self.server.key))
        arguments = ["--state", "/x", "run"]
        self.upgrade = Upgrade(self.settings, "run", self.server, self.replication, handover, arguments)  # type: ignore[arg-type]
        self.upgrade._releases = releases
        self.wanted = UpgradeArguments(release="two", digest=digest(self.data))


def test_an_upgrade_that_cannot_be_done_leaves_things_as_they_were(releases: Releases) -> None:
    rig = Rig(releases, None)
    with pytest.raises(TryLater):
        rig.upgrade.carry_out("c", rig.wanted)
    assert rig.replication.asked == 1
    broken = Rig(releases, None, body="exit 1")
    with pytest.raises(Refused):
        broken.upgrade.carry_out("c", broken.wanted)
    assert broken.replication.asked == 0, "it was tried out first"
    assert sorted(path.name for path in (releases.root / "releases").iterdir()) == ["older", "one"]


def test_a_hand_over_that_cannot_be_written_down_is_told_and_leaves_nothing(
    releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines that are protected in rounds hand over with nobody between that knows what a full disk is."""
    rig = Rig(releases, None)
    write = handovers.write_private

    def full(path: Path, data: bytes) -> None:
        write(path, data)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(handovers, "write_private", full)
    rig.replication.hand_over = lambda give_way: give_way(Position(0, 0), [], None)  # type: ignore[assignment]
    with pytest.raises(NoSpace, match="hand-over cannot be written") as refused:
        rig.upgrade.carry_out("c", rig.wanted)
    assert "Free space" in refused.value.remedy
    assert not rig.settings.handover.exists()
    assert sorted(path.name for path in (releases.root / "releases").iterdir()) == ["older", "one"]


def test_the_same_release_is_there_already(releases: Releases) -> None:
    rig = Rig(Releases(releases.root, "two"), None)
    rig.upgrade.carry_out("c", rig.wanted)
    assert rig.server.asked == []


@pytest.mark.parametrize(("running", "error"), [("two", ""), ("one", "ended before it worked")])
def test_the_result_is_given_once_the_stream_is_there(releases: Releases, running: str, error: str) -> None:
    LEFT.save(releases.root / "handover.json")
    (releases.root / "releases" / "two").mkdir()
    rig = Rig(Releases(releases.root, running), Handover.load(releases.root / "handover.json"))
    assert rig.upgrade.under_way == "command"
    assert rig.upgrade.conclude(wanted=True) is None
    rig.replication.current = object()
    result = rig.upgrade.conclude(wanted=True)
    assert result is not None
    command, ended = result
    assert command == "command"
    assert error in (ended.failure.message if ended.failure else "")
    assert (ended.failure is None) == (not error)
    assert (releases.root / "current").resolve().name == running
    assert (releases.root / "releases" / "two").exists() == (running == "two")
    assert rig.upgrade.conclude(wanted=True) is None
    assert not (releases.root / "handover.json").exists()


def test_a_release_that_the_pinned_key_has_not_signed_is_not_even_fetched(releases: Releases) -> None:
    """Who posed as the configuration server could have its own program run as root."""
    rig = Rig(releases, None)
    pin(rig.settings.release_key, public_half(Ed25519PrivateKey.generate()))
    with pytest.raises(Damaged, match="not signed"):
        rig.upgrade.carry_out("c", rig.wanted)
    rig.settings.release_key.unlink()
    with pytest.raises(Refused, match="has no release key"):
        rig.upgrade.carry_out("c", rig.wanted)
    assert rig.server.asked == []
    assert rig.replication.asked == 0


@pytest.mark.parametrize("changed", ["digest", "release"])
def test_a_signature_holds_for_one_archive_under_one_name(releases: Releases, changed: str) -> None:
    rig = Rig(releases, None)
    other = {"digest": digest(b"other")} if changed == "digest" else {"release": "older-and-vulnerable"}
    signed = rig.server.signature("two")
    rig.server.signature = lambda _release: signed  # type: ignore[assignment]
    with pytest.raises(Damaged, match="not signed"):
        rig.upgrade.carry_out("c", rig.wanted.model_copy(update=other))


@pytest.mark.parametrize("key", ["", "zz", "00" * 31, "AB" * 32])
def test_what_is_no_release_key_is_not_pinned(tmp_path: Path, key: str) -> None:
    with pytest.raises(Malformed):
        pin(tmp_path / "release-key", key)
    assert not (tmp_path / "release-key").exists()
