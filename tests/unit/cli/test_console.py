"""The appliance's console: each part is asked about until it works, and systemd gets what was answered."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from farshore.cli.console import __main__ as console
from farshore.cli.console.machine import IS_SET_UP, Machine
from farshore.cli.console.network import Network, parse_gateway, parse_interface, parse_name, parse_servers
from farshore.cli.console.store import Store, parse_url, parse_value
from farshore.cli.console.terminal import Terminal
from farshore.model.errors import FarshoreError, Refused

PASSWORD, SECRET = "a long password", "S3-secret/+="


class Scripted(Terminal):
    """Somebody with these answers; what ends with ! is given where nothing is shown."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.said = list(answers), ""

    def say(self, text: str = "") -> None:
        self.said += f"{text}\n"

    def read(self, prompt: str) -> str:
        self.said += f"{prompt}\n"
        if not self.answers:
            raise EOFError
        answer = self.answers.pop(0)
        assert not answer.endswith("!"), f"{prompt} would show a secret"
        return answer

    def read_secret(self, prompt: str) -> str:
        self.said += f"{prompt}\n"
        answer = self.answers.pop(0)
        assert answer.endswith("!"), f"{prompt} is no secret"
        return answer[:-1]


@dataclass(frozen=True)
class Recorded(Machine):
    """A machine whose programs are noted, not run. ``failing``: how often a command fails that has such a word."""

    ran: list[tuple[str, str]] = field(default_factory=list)
    surroundings: dict[str, str] = field(default_factory=dict)
    failing: dict[str, int] = field(default_factory=dict)

    def run(self, *command: str, typed: str = "", environment: Mapping[str, str] | None = None) -> str:
        line = " ".join(command)
        self.ran.append((line, typed))
        self.surroundings.update(environment or {})
        for start, times in self.failing.items():
            if start in line and times:
                self.failing[start] = times - 1
                raise Refused(f"{start} is away.", remedy="Answer anew.")
        if "link show" in line:
            return "lo UNKNOWN 00:00\nens192 UP 00:50\n"
        if "address show" in line:
            return "ens192 UP 192.0.2.10/24 2001:db8::10/64\n"
        return "ActiveState=active\nResult=success\nNRestarts=0\n" if "systemctl show" in line else ""

    def lines(self) -> list[str]:
        return [line for line, _ in self.ran]


@pytest.fixture
def machine(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path / "root", tmp_path / "home")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was run of ``farshore``; each works."""
    ran: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        ran.append(command[1:])
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(console.subprocess, "run", run)
    return ran


NETWORK = ("dr.example.com", "192.0.2.10/24", "192.0.2.1", "192.0.2.53, 192.0.2.54")
STORE = ("s3://dr-vault", "https://s3.example.com", "", "AKIA", f"{SECRET}!")


def test_everything_is_asked_once_and_done(machine: Recorded, commands: list[list[str]]) -> None:
    words = (*NETWORK, f"{PASSWORD}!", f"{PASSWORD}!", "", *STORE, "vcenter.example.com:8443", "")
    terminal = Scripted(*words)
    console.set_up(terminal, machine)
    machine.finish("tty1", console.TERMINALS)
    assert terminal.answers == []
    etc = machine.root / "etc"
    unit = (etc / "systemd/network/10-farshore.network").read_text()
    assert unit.splitlines()[3:] == [
        *("[Network]", "Address=192.0.2.10/24", "Gateway=192.0.2.1", "DNS=192.0.2.53", "DNS=192.0.2.54")
    ]
    stored = etc / "farshore/store.env"
    assert stored.stat().st_mode & 0o777 == 0o600
    assert stored.read_text().splitlines() == [
        *("AWS_ENDPOINT_URL=https://s3.example.com", "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=AKIA"),
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
    ]
    (made,) = [line for line in machine.lines() if "configuration_server.setup" in line]
    assert (
        "--advertise dr.example.com --advertise 192.0.2.10 --advertise 2001:db8::10 --vault-url s3://dr-vault" in made
    )
    assert machine.surroundings["AWS_SECRET_ACCESS_KEY"] == SECRET
    assert machine.lines().index(made) < machine.lines().index("systemctl enable --now farshore.service")
    assert commands[-1][:4] == ["vmware", "add", "vcenter", "vcenter.example.com"]
    assert commands[-1][4:] == ["--user", "farshore@vsphere.local", "--port", "8443"]
    assert (etc.parent / IS_SET_UP).exists()
    assert machine.lines()[-1] == "systemctl stop --no-block farshore-console@ttyS0.service"
    shown = terminal.said + "".join(machine.lines())
    assert PASSWORD not in shown
    assert SECRET not in shown
    assert ("chpasswd", f"root:{PASSWORD}\n") in machine.ran
    assert "systemctl enable --now ssh.service" not in machine.lines()


def test_what_does_not_work_is_asked_again(machine: Recorded, commands: list[list[str]]) -> None:
    machine.failing.update({"wait-online": 1, "configuration_server.setup": 1})
    password = (f"{PASSWORD}!", "another one!", "short!", f"{PASSWORD}!", f"{PASSWORD}!", "y")
    terminal = Scripted("no name", *NETWORK, "dr.example.com", "", *password, *STORE, "local", "")
    console.set_up(terminal, machine)
    assert terminal.answers == []
    assert "DHCP=yes" in (machine.root / "etc/systemd/network/10-farshore.network").read_text()
    assert (machine.root / "etc/farshore/store.env").read_text() == "", "what the first try had is gone"
    for said in ("This is not a host name", "wait-online is away", "entries differ", "at least 8", "setup is away"):
        assert said in terminal.said
    assert {"ssh-keygen -A", "systemctl enable --now ssh.service"} <= set(machine.lines())
    assert [command for command in commands if command[0] == "vmware"] == []


def test_servers_that_do_not_start_end_the_questions(
    machine: Recorded, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorded, "failed", lambda _: "farshore.service is failed (exit-code)")
    answer = subprocess.CompletedProcess([], 75, b"", b"It does not answer.")
    monkeypatch.setattr(console.subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(Refused, match="is failed"):
        console.set_up(Scripted(*NETWORK, f"{PASSWORD}!", f"{PASSWORD}!", "n", "local"), machine)
    assert not (machine.root / IS_SET_UP).exists()


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((parse_name, text) for text in ("", "-a", "a..b", "a b", "a\nb", "x" * 64, "$(id)")),
        *((parse_interface, text) for text in ("192.0.2.10", "192.0.2.0/24", "192.0.2.300/24", "a\n[Match]")),
        *((lambda text: parse_gateway(text, "192.0.2.10/24"), text) for text in ("192.0.3.1", "x")),
        *((parse_servers, text) for text in ("a", "192.0.2.1\nDomains=x")),
        *((parse_url, text) for text in ("s3://", "file:///tmp", "s3://a b", "s3://a?x=y", "https://u:p@h/")),
        *((parse_value, text) for text in ("a b", 'a"b', "a\\b", "a\nLD_PRELOAD=x", "é", "it's")),
        *((console._host, text) for text in ("a b", "a:0", "a:99999", "a:b", "-h")),
        *((console._user, text) for text in ("", "-u", "a\x1bb")),
    ],
)
def test_what_would_break_out_of_a_file_is_refused(parse: Any, text: str) -> None:
    with pytest.raises(FarshoreError):
        parse(text)


def test_files_hold_nothing_but_what_was_given() -> None:
    assert Network("a", "2001:db8::1/64").unit().splitlines()[-1] == "Address=2001:db8::1/64"
    assert Store("s3://b", {"A": "1", "B": ""}).environment_file() == "A=1\n"
    assert SECRET not in repr(Store("s3://b", {"A": SECRET}))


def test_programs_that_fail_say_why(tmp_path: Path) -> None:
    machine = Machine(tmp_path, tmp_path)
    assert machine.run("sh", "-c", "cat", typed="typed") == "typed"
    with pytest.raises(Refused, match="sh: because"):
        machine.run("sh", "-c", "echo because >&2; exit 3")
    with pytest.raises(Refused, match="does not run"):
        machine.run("no-program-of-this-name")


def test_a_real_terminal_shows_no_secret() -> None:
    """And Ctrl-D ends the questions."""
    program = (
        "from farshore.cli.console.terminal import Terminal; t = Terminal(); print(len(t.ask_secret('Key'))); "
        "print(t.ask_yes('Sure', default=True)); t.read('More: ')"
    )
    child, ours = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", program])
    said = b""
    for waited, typed in ((b"Key: ", b"hidden\n"), (b"[y]: ", b"maybe\n"), (b"[y]: ", b"\n"), (b"More: ", b"\x04")):
        while not said.endswith(waited):
            said += os.read(ours, 1000)
        os.write(ours, typed)
        said += b"|"
    _, status = os.waitpid(child, 0)
    os.close(ours)
    assert b"hidden" not in said
    assert b"neither yes nor no" in said
    assert os.waitstatus_to_exitcode(status) == 1  # EOFError, which the console ends by
