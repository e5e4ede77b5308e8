"""Push installation against an SSH server on the loopback that plays the machine: keys, order, secrets, errors."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from farshore.model.errors import FarshoreError, Forbidden, Malformed, Refused, Unreachable
from farshore.protection.installation import JumpHost, PushTarget
from farshore.protection.push import install
from farshore.protection.push.bundle import Bundle
from farshore.protection.push.install import PushInstaller
from farshore.protection.push.ssh import MARK

TOKEN = "the-one-time-token"
SURVEY = """\
user=0
architecture=x86_64
kernel=6.1.0
btf=yes
systemd=yes
python=3.11
space=4000000
temporary=4000000
release={release}
"""


class Logins(asyncssh.SSHServer):
    """Takes a password besides the key, and forwards connections as a jump host does."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def password_auth_supported(self) -> bool:
        return bool(self._machine.password)

    def validate_password(self, username: str, password: str) -> bool:
        return username == "root" and password == self._machine.password

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        del orig_host, orig_port
        self._machine.forwarded.append((dest_host, dest_port))
        return self._machine.forwards


class Machine:
    """An SSH server in a thread. Scripts are noted, not run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.user_key = asyncssh.generate_private_key("ssh-ed25519")
        self.commands: list[str] = []
        self.inputs: list[str] = []
        self.logins = 0
        self.password = ""
        self.forwards = True
        self.forwarded: list[tuple[str, int]] = []
        self.release = ""
        self.noise = ""
        """What root's login script prints before each command's own output."""
        self.sudo = True
        self.findings: list[dict[str, str]] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        (folder / "tmp/farshore-1").mkdir(parents=True)

    def start(self) -> None:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(120)
        self.port = self._server.get_port()

    def stop(self) -> None:
        async def close() -> None:
            self._server.close()
            await self._server.wait_closed()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(120)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncssh.SSHAcceptor:
        authorized = asyncssh.import_authorized_keys(self.user_key.export_public_key().decode())
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[self.host_key],
            authorized_client_keys=authorized,
            server_factory=lambda: Logins(self),
            process_factory=lambda process: self._serve(process),
        )

    async def _serve(self, process: asyncssh.SSHServerProcess) -> None:
        begin, _, command = (process.command or "").partition("; ")
        assert begin == f"echo {MARK}"
        process.stdout.write(f"{self.noise}{MARK}\n")
        self.commands.append(command)
        given = str(await process.stdin.read())
        self.inputs.append(given)
        if command.startswith("sudo") and not self.sudo:
            process.stderr.write("sudo: a password is required\n")
            process.exit(1)
        elif "uname -m" in given:
            process.stdout.write(SURVEY.format(release=self.release))
            process.exit(0)
        elif " check " in given:
            process.stdout.write(json.dumps({"mode": "data", "findings": self.findings}))
            process.exit(0)
        elif "mktemp" in given:
            process.stdout.write("/tmp/farshore-1\n")
            process.exit(0)
        elif "failing" in self.release and "tar -xzf" in given:
            process.stderr.write("tar: no room\n")
            process.exit(2)
        elif command.startswith("cat > /tmp/"):
            (self.folder / command.removeprefix("cat > /")).write_text(given)
            process.exit(0)
        else:
            process.exit(0)

    def target(self, **changes: object) -> PushTarget:
        fields: dict[str, object] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "root",
            "private_key": self.user_key.export_private_key().decode(),
            "host_key_fingerprint": "",
            "token": TOKEN,
            "server_url": "https://dr.example.com",
            "authority_fingerprint": "ab" * 32,
            "release_key": "cd" * 32,
            "disks": ("/dev/vda",),
        }
        return PushTarget(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "machine")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def gate(tmp_path: Path, machine: Machine) -> Iterator[Machine]:
    """A host in between, which the same key enters."""
    made = Machine(tmp_path / "gate")
    made.user_key = machine.user_key
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def ready_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    path = tmp_path / "mobility-r1.tar.gz"
    path.write_bytes(b"a bundle")
    bundle = Bundle("r1", path)
    monkeypatch.setattr(install, "build_bundle", lambda python, cache: bundle)
    return bundle


def push(machine: Machine, tmp_path: Path, **changes: object) -> tuple[str, list[str]]:
    told: list[str] = []
    shown = PushInstaller(tmp_path)(machine.target(**changes), lambda fraction, what: told.append(what))
    return shown, told


def test_it_brings_configures_enrols_and_starts(machine: Machine, tmp_path: Path) -> None:
    shown, told = push(machine, tmp_path)
    assert shown == machine.host_key.get_fingerprint()
    assert (machine.folder / "tmp/farshore-1/mobility-r1.tar.gz").read_bytes() == b"a bundle"
    assert told[-1] == "the mobility service runs"
    enrolling = next(command for command in machine.commands if "enroll" in command)
    assert "--disk /dev/vda" in enrolling
    assert "--authority-fingerprint" in enrolling
    assert machine.inputs[machine.commands.index(enrolling)] == TOKEN + "\n"
    assert "systemctl restart" in machine.inputs[-1]


def test_what_a_login_script_prints_is_no_part_of_any_answer(machine: Machine, tmp_path: Path) -> None:
    machine.noise = "Welcome!\nuser=1000\nrelease=releases/none\n/nowhere\n{\n"
    _, told = push(machine, tmp_path)
    assert (machine.folder / "tmp/farshore-1/mobility-r1.tar.gz").read_bytes() == b"a bundle"
    assert told[-1] == "the mobility service runs"


def test_the_token_is_in_no_command_and_no_script(machine: Machine, tmp_path: Path) -> None:
    push(machine, tmp_path)
    assert not any(TOKEN in command for command in machine.commands)
    assert [text for text in machine.inputs if TOKEN in text] == [TOKEN + "\n"]


def test_what_is_installed_already_is_not_brought_again(machine: Machine, tmp_path: Path) -> None:
    machine.release = "releases/r1"
    _, told = push(machine, tmp_path)
    assert "copying the bundle" not in told
    assert not list((machine.folder / "tmp/farshore-1").iterdir())


def test_another_user_goes_through_sudo(machine: Machine, tmp_path: Path) -> None:
    push(machine, tmp_path, user="admin")
    plain = [command for command in machine.commands if not command.startswith("sudo -n ")]
    # The folder for the upload is the user's own, and so is the upload.
    assert plain == ["sh -s", "cat > /tmp/farshore-1/mobility-r1.tar.gz"]
    machine.sudo = False
    with pytest.raises(Refused, match="cannot become root"):
        push(machine, tmp_path, user="admin")


def test_a_pinned_host_key_must_be_the_one_shown(machine: Machine, tmp_path: Path) -> None:
    push(machine, tmp_path, host_key_fingerprint=machine.host_key.get_fingerprint())
    before = len(machine.commands)
    other = asyncssh.generate_private_key("ssh-ed25519").get_fingerprint()
    with pytest.raises(Forbidden, match="host key"):
        push(machine, tmp_path, host_key_fingerprint=other)
    assert len(machine.commands) == before


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode(), Forbidden),
        ("no key at all", Malformed),
    ],
)
def test_a_key_that_does_not_open_the_door(
    machine: Machine, tmp_path: Path, key: str, kind: type[FarshoreError]
) -> None:
    with pytest.raises(kind):
        push(machine, tmp_path, private_key=key)


def test_a_failing_step_says_what_the_machine_said(machine: Machine, tmp_path: Path) -> None:
    machine.release = "failing"
    with pytest.raises(Refused, match=r"Unpacking the bundle .* failed .status 2.: tar: no room"):
        push(machine, tmp_path)


def test_what_cannot_be_protected_is_told_before_anything_is_enrolled(machine: Machine, tmp_path: Path) -> None:
    machine.findings = [
        {"subject": "clock", "severity": "warning", "message": "Wrong.", "remedy": "Set it."},
        {"subject": "disk sda", "severity": "error", "message": "One path of many.", "remedy": "Exclude it."},
    ]
    with pytest.raises(Refused, match=r"disk sda: One path of many. \(Exclude it.\)"):
        push(machine, tmp_path)
    assert not [command for command in machine.commands if "enroll" in command]
    assert "--disk /dev/vda check --reach https://dr.example.com" in machine.inputs[-1]
    machine.findings.pop()
    _, told = push(machine, tmp_path)
    assert "warnings: clock: Wrong. (Set it.)" in told


def test_nobody_there(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        push(machine, tmp_path, port=9)


def test_a_password_is_taken_instead_of_a_key(machine: Machine, tmp_path: Path) -> None:
    machine.password = "correct horse"
    push(machine, tmp_path, private_key="", password="correct horse")
    assert any("enroll" in command for command in machine.commands)
    assert not any("correct horse" in text for text in [*machine.commands, *machine.inputs])
    with pytest.raises(Forbidden, match="does not accept the password"):
        push(machine, tmp_path, private_key="", password="wrong")


def test_a_machine_is_reached_through_a_jump_host(machine: Machine, gate: Machine, tmp_path: Path) -> None:
    seen: list[str] = []
    jump = JumpHost("127.0.0.1", gate.port, "root", seen=seen.append)
    shown, _ = push(machine, tmp_path, jump=jump)
    assert shown == machine.host_key.get_fingerprint()
    assert seen == [gate.host_key.get_fingerprint()]
    assert gate.forwarded == [("127.0.0.1", machine.port)]
    assert gate.commands == []
    pinned = JumpHost("127.0.0.1", gate.port, "root", machine.host_key.get_fingerprint())
    with pytest.raises(Forbidden, match="shows the host key"):
        push(machine, tmp_path, jump=pinned)


def test_a_jump_host_that_does_not_forward_is_named(machine: Machine, gate: Machine, tmp_path: Path) -> None:
    gate.forwards = False
    with pytest.raises(Unreachable, match="from the jump host"):
        push(machine, tmp_path, jump=JumpHost("127.0.0.1", gate.port, "root"))
