"""Taking the agent off by SSH: from the machine that is meant, and no other."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import asyncssh
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.scenarios.push.test_push_over_ssh import Machine as Host
from tests.scenarios.push.test_push_over_ssh import machine as machine

from farshore.model.errors import Refused
from farshore.protection.installation import SshTarget
from farshore.protection.push.removal import _REMOVE, _WHOSE, PushRemover

BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ID = "11111111-1111-4111-8111-111111111111"


def certificate(machine_id: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, BEGIN, BEGIN + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"farshore://machine/{machine_id}")]), False
        )
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def target(host: Host, user: str = "root") -> SshTarget:
    key = host.user_key.export_private_key().decode()
    return SshTarget(host="127.0.0.1", port=host.port, user=user, private_key=key, host_key_fingerprint="")


class Answers:
    """What the host's scripts print: whose agent is there, what is left."""

    def __init__(self, whose: str, left: str) -> None:
        self.whose, self.left = whose, left

    async def __call__(self, process: asyncssh.SSHServerProcess) -> None:
        process.stdout.write((process.command or "").partition("; ")[0].removeprefix("echo ") + "\n")
        given = str(await process.stdin.read())
        self.seen = [*getattr(self, "seen", []), ((process.command or "").partition("; ")[2], given)]
        process.stdout.write(self.whose if "credentials.json" in given else self.left)
        process.exit(0)


def remove(host: Host, answers: Answers, user: str = "root") -> tuple[str, ...]:
    host._serve = answers  # type: ignore[method-assign]
    return PushRemover()(target(host, user), ID, lambda _fraction, _what: None).stays


def test_the_agent_is_removed_and_what_is_left_is_named(machine: Host) -> None:
    answers = Answers(certificate(ID), "/etc/farshore: app-consistent.d \n")
    assert remove(machine, answers) == ("/etc/farshore: app-consistent.d",)
    assert "disable --now" in answers.seen[-1][1]


def test_a_host_without_an_agent_is_cleaned_as_well(machine: Host) -> None:
    assert remove(machine, Answers("", ""), user="admin") == ()


@pytest.mark.parametrize("whose", [certificate("22222222-2222-4222-8222-222222222222"), "Traceback\n"])
def test_another_machines_agent_is_left_alone(machine: Host, whose: str) -> None:
    answers = Answers(whose, "")
    with pytest.raises(Refused, match="belongs to another machine"):
        remove(machine, answers)
    assert not any("rm -rf" in given for _, given in answers.seen)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine's places below a folder, as a push leaves them, and a systemctl that notes what it is told."""
    files = {
        "opt/farshore/releases/r1/bin/farshore-mobility": f"#!/usr/bin/env -S {Path(sys.executable).name} -I\n",
        "var/lib/farshore-mobility/credentials.json": json.dumps(
            {"certificate": certificate(ID), "key": "very secret"}
        ),
        "var/lib/farshore-mobility/x.hrl": "x",
        "etc/farshore/mobility.conf": "x",
        "etc/systemd/system/farshore-mobility.service": "x",
        "bin/systemctl": f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n[ "$1" != is-active ]\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "etc/farshore/app-consistent.d").mkdir()
    (tmp_path / "opt/farshore/current").symlink_to("releases/r1")
    (tmp_path / "bin/systemctl").chmod(0o755)
    return tmp_path


def run(script: str, root: Path) -> str:
    """The script with its places below ``root``, as the machine's shell runs it."""
    for place in ("/opt/farshore", "/etc/farshore", "/etc/systemd", "/var/lib/farshore", "/run/farshore"):
        script = script.replace(place, f"{root}{place}")
    path = f"{root / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-s"], input=script, env={"PATH": path}, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_shell_shows_the_certificate_and_never_the_key(root: Path) -> None:
    assert run(_WHOSE, root) == certificate_of(root) + "\n"
    (root / "var/lib/farshore-mobility/credentials.json").unlink()
    assert run(_WHOSE, root) == ""


def certificate_of(root: Path) -> str:
    return str(json.loads((root / "var/lib/farshore-mobility/credentials.json").read_text())["certificate"])


def test_the_shell_removes_what_is_the_agents_and_names_the_rest(root: Path) -> None:
    hook = root / "etc/farshore/app-consistent.d/10-mine"
    hook.write_text("x")
    assert run(_REMOVE, root) == f"{root}/etc/farshore: app-consistent.d \n"
    assert hook.exists()
    hook.unlink()
    assert run(_REMOVE, root) == "", "and again"
    left = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert left == ["bin/systemctl", "said"]
    assert (root / "said").read_text().splitlines()[0] == "disable --now --quiet farshore-mobility.service"
