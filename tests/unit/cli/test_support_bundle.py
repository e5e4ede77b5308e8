"""A support bundle holds what helps, and none of the secrets that were planted wherever they may turn up."""

from __future__ import annotations

import base64
import json
import stat
import tarfile
from pathlib import Path

import pytest

from farshore.cli import support_bundle
from farshore.cli.redaction import Redaction
from farshore.cli.support_bundle import write_bundle
from farshore.model.errors import Refused, Unreachable

VAULT_KEY = "5f" * 32
PRIVATE = base64.b64encode(bytes(range(48))).decode()
PEM = f"-----BEGIN PRIVATE KEY-----\n{PRIVATE}\n-----END PRIVATE KEY-----\n"
PLANTED = {
    "vault key": VAULT_KEY,
    "private key": PRIVATE,
    "password": "correct horse battery",
    "short password": "hunter2!",
    "enrolment token": "q3T9vZ_8hX2kLm4PqRs7Tu1Vw5Xy6Za0Bc-DeFgHiJk",
    "signing key": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "webhook": "T00000000/B00000000/XXXXXXXXXXXXsecretpath",
    "aws id": "AKIAIOSFODNN7EXAMPLE",
    "aws key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "azure sas": "sv=2022-11-02&ss=b&sig=abcDEF123%2Fxyz",
    "proxy": "proxyuser:proxypass",
    "session": "abcdef0123456789abcdef0123456789",
    "bearer": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
}
LOG = f"""\
2026-11-26T10:00:00Z INFO farshore: started
the key is {VAULT_KEY}
{PEM}
password={PLANTED["short password"]} next
"secret": "{PLANTED["password"]}", "name": "web1"
token {PLANTED["enrolment token"]} was used
signing key {PLANTED["signing key"]}
AWS_ACCESS_KEY_ID={PLANTED["aws id"]} AWS_SECRET_ACCESS_KEY={PLANTED["aws key"]}
GET https://store.blob.core.windows.net/vault?{PLANTED["azure sas"]} 403
{{\\"secret\\": \\"{PLANTED["password"]}\\"}}
HTTPS_PROXY=http://{PLANTED["proxy"]}@proxy:3128
session {PLANTED["session"]}
Authorization: Bearer {PLANTED["bearer"]}
machine 11111111-1111-4111-8111-111111111111 at 192.0.2.7 is fine
"""


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "process-server").mkdir(parents=True)
    (home / "failovers/1").mkdir(parents=True)
    (home / "pki").mkdir()
    (home / "vault.key").write_text(VAULT_KEY + "\n")
    (home / "admin.json").write_text(json.dumps({"url": "https://127.0.0.1", "key": PEM}))
    (home / "pki/server.pem").write_text(PEM)
    (home / "pki/hook.key").write_text(PLANTED["webhook"] + "\n")
    (home / "configuration-server.toml").write_text(
        f'vault_url = "s3://b/v"\ncatalog_url = "postgresql://u:{VAULT_KEY}@db/x"\n'
    )
    for place in ("up.log", "process-server/process-server.log", "failovers/1/export.log"):
        (home / place).write_text(LOG + f"posted to hooks/{PLANTED['webhook']}\n")
    (home / "failovers/1/console.log").write_text("login: root, a guest's own secret")
    return home


def fetch(place: str) -> bytes:
    if place == "/v1/machines":
        return json.dumps([{"id": "11111111-1111-4111-8111-111111111111", "name": "web1", "note": LOG}]).encode()
    if place == "/v1/jobs":
        raise Unreachable(f"The server did not answer: password={PLANTED['short password']}", remedy="-")
    return json.dumps({"place": place, "token": PLANTED["enrolment token"]}).encode()


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as bundle:
        files = {member.name: bundle.extractfile(member) for member in bundle.getmembers()}
        return {name: file.read().decode() for name, file in files.items() if file is not None}


def test_no_planted_secret_is_in_it(installation: Path, tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar.gz"
    problems = write_bundle(path, installation, fetch)
    found = contents(path)
    for what, secret in PLANTED.items():
        for name, text in found.items():
            assert secret not in text, f"{what} in {name}"
            assert json.dumps(secret)[1:-1] not in text, f"{what} in {name}"
    assert "proxypass" not in "".join(found.values())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log = found["farshore-support/files/up.log"]
    for kept in ("farshore: started", "11111111-1111-4111-8111-111111111111", "192.0.2.7", "proxy:3128"):
        assert kept in log, "it is to help"
    assert "farshore-support/api/checks/11111111-1111-4111-8111-111111111111.json" in found
    assert "api/jobs" in problems
    assert "api/jobs: The server did not answer" in found["farshore-support/problems.txt"]
    assert not any("console" in name or name.endswith((".key", ".pem", "admin.json")) for name in found)


def test_the_control_without_redaction_they_are(
    installation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support_bundle, "_redacted", lambda _redact, _name, text: text)
    write_bundle(tmp_path / "bundle.tar.gz", installation, fetch)
    everything = "".join(contents(tmp_path / "bundle.tar.gz").values())
    assert all(secret in everything for secret in PLANTED.values())


def test_a_file_that_exists_is_left_alone(installation: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("kept")
    with pytest.raises(Refused):
        write_bundle(tmp_path / "there", installation, fetch)
    assert (tmp_path / "there").read_text() == "kept"


def test_equal_values_get_equal_marks_that_say_nothing() -> None:
    redact = Redaction()
    one, two, other = (redact(f"value {text * 16} end") for text in ("ab", "ab", "cd"))
    assert one == two != other
    assert redact("an ordinary sentence, a path /var/lib/Farshore2/x and 4,096 bytes") == (
        "an ordinary sentence, a path /var/lib/Farshore2/x and 4,096 bytes"
    )
