"""Taking the agent off by SSH: from the machine that is meant, and no other."""

from __future__ import annotations

import datetime

import asyncssh
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.scenarios.push.test_push_over_ssh import Machine as Host
from tests.scenarios.push.test_push_over_ssh import machine as machine

from farshore.model.errors import Refused
from farshore.protection.installation import SshTarget
from farshore.protection.push.removal import PushRemover

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
    with pytest.raises(Refused, match="another machine's"):
        remove(machine, answers)
    assert not any("rm -rf" in given for _, given in answers.seen)
