"""Programs by guest operations of a simulated vCenter, which carries them out for real on this host."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.scenarios.vsphere.test_discovery import login_to
from tests.vcenter.running import GUEST_PASSWORD, Vcenter, vcenter

from farshore.model.errors import Forbidden, Malformed, Refused, TryLater
from farshore.protection.installation import GuestPlace, PushTarget
from farshore.protection.push.guest_shell import through_guests
from farshore.protection.push.shell import RemoteShell
from farshore.protection.push.survey import SURVEY
from farshore.vsphere.guest import GUEST, Guest
from farshore.vsphere.session import Session, session


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vcenter]:
    """Its guest's temporary files are in a folder of its own: other tests use /tmp at the same time."""
    folder = tmp_path_factory.mktemp("vcenter")
    (folder / "tmp").mkdir()
    with vcenter(folder, 1, guest=f"env TMPDIR={folder / 'tmp'} sh -c") as running:
        yield running


@pytest.fixture
def opened(server: Vcenter) -> Iterator[Session]:
    with session(login_to(server)) as made:
        yield made


def machine(opened: Session) -> str:
    (found,) = opened.content.rootFolder.childEntity[0].vmFolder.childEntity
    return str(found._moId)


@pytest.fixture
def guest(opened: Session) -> Guest:
    return Guest(opened, machine(opened), "web1", "root", GUEST_PASSWORD)


def left(server: Vcenter) -> list[Path]:
    return list((server.folder / "tmp").iterdir())


def test_a_program_gets_its_input_and_says_how_it_ended(server: Vcenter, guest: Guest) -> None:
    ended = guest.run("cat; echo wrong >&2; ls -d $TMPDIR/* >&2; exit 3", b"a secret\n\xff", 30)
    assert (ended.status, ended.output) == (3, b"a secret\n\xff")
    said, folder = ended.errors.decode().splitlines()
    assert (said, Path(folder).parent) == ("wrong", server.folder / "tmp")
    assert guest.run("true", b"", 30).status == 0
    assert not left(server), "its folder is gone"
    assert "secret" not in repr(guest)


def test_a_file_is_its_users_alone(guest: Guest, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    guest.put(str(tmp_path / "it's here"), content)
    assert (tmp_path / "it's here").read_bytes() == content
    assert (tmp_path / "it's here").stat().st_mode & 0o077 == 0


def test_one_that_takes_too_long_is_ended(guest: Guest, tmp_path: Path) -> None:
    with pytest.raises(TryLater, match="longer than 0 s"):
        guest.run("exec sleep 600", b"", 0.2)


def test_who_may_not(guest: Guest) -> None:
    with pytest.raises(Forbidden, match="does not accept") as raised:
        replace(guest, password="wrong").run("true", b"", 30)
    assert "wrong" not in str(raised.value)


@pytest.mark.parametrize(
    "method",
    ["CreateTemporaryDirectoryInGuest", "InitiateFileTransferToGuest", "StartProgramInGuest", "ListProcessesInGuest",
     "guestFile"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["busy", "drop", "GuestOperationsUnavailable"])
def test_what_fails_passes_and_leaves_nothing(server: Vcenter, guest: Guest, method: str, kind: str) -> None:
    server.fault(method, kind)
    with pytest.raises(TryLater) as raised:
        guest.run("true", b"", 30)
    assert raised.value.remedy
    assert not left(server)
    assert guest.run("true", b"", 30).status == 0


def target(opened: Session, **changes: object) -> PushTarget:
    made = PushTarget(
        host="web1", port=22, user="root", private_key="", host_key_fingerprint="", password=GUEST_PASSWORD,
        token="t", server_url="https://dr.example", authority_fingerprint="", release_key="",
        guest=GuestPlace("dc1", machine(opened)),
    )  # fmt: skip
    return replace(made, **changes)


def asked(server: Vcenter, wanted: PushTarget) -> str:
    async def ask() -> str:
        async with through_guests(lambda _name: login_to(server))(wanted) as shell:
            return await _used(shell)

    return asyncio.run(ask())


async def _used(shell: RemoteShell) -> str:
    assert (await shell.run_with_input("cat", "token\n", "Enrolling")) == "token\n"
    with pytest.raises(Refused, match=r"Trying in web1 failed \(status 4\): no"):
        await shell.run("echo no >&2; exit 4", "Trying")
    return await shell.run(SURVEY.replace("mkdir -p /opt", ":"), "A first look around")


def test_the_push_installation_has_the_same_shell_as_by_ssh(server: Vcenter, opened: Session) -> None:
    said = asked(server, target(opened))
    assert "system=Linux" in said
    assert "user=0" in said


def test_what_it_takes_is_named(server: Vcenter, opened: Session) -> None:
    with pytest.raises(Malformed, match="not a key"):
        asked(server, target(opened, password=""))
    server.deny(GUEST[2])
    try:
        with pytest.raises(Forbidden, match=GUEST[2]):
            asked(server, target(opened))
    finally:
        server.allow()
