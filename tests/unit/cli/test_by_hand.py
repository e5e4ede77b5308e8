"""Installing and removing the agent by hand: the commands are those of a push, and no secret is in an argument."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from farshore.api_types.machines import Token
from farshore.cli import by_hand, logging_in, token
from farshore.cli.main import commands
from farshore.model.errors import Malformed
from farshore.protection.push import install


def test_the_commands_are_a_pushs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def create_token(self, _request: Any) -> Token:
            return Token(token="secret-token", authority_fingerprint="ab" * 32, expires=1, server_url="https://dr:443")

    monkeypatch.setattr(token, "management", lambda: Api())
    said = CliRunner().invoke(commands, ["token", "create"], catch_exceptions=False).output
    assert said.count("secret-token") == 1, "it is shown, and in no command"
    for needed in ("farshore machine package", install.PROGRAM, "--authority-fingerprint " + "ab" * 32,
                   "--server https://dr:443", "systemctl enable --now farshore-mobility"):  # fmt: skip
        assert needed in said
    assert f"{by_hand.UNIT}.service" == install.UNIT
    assert by_hand.PROGRAM == install.PROGRAM


def test_what_is_removed_is_what_stays() -> None:
    said = " ".join(by_hand.removal())
    assert all(folder in said for folder in by_hand.STAYS)
    assert "disable --now" in said


def test_a_keys_passphrase_is_asked_for_and_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = Ed25519PrivateKey.generate()
    closed = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    )
    (tmp_path / "key").write_bytes(closed)
    monkeypatch.setattr("typer.prompt", lambda *_a, **_o: "word")
    sent, password = logging_in.credentials(tmp_path / "key", False)
    assert password.get_secret_value() == ""
    opened = serialization.load_ssh_private_key(sent.encode(), None)
    assert opened.public_key() == key.public_key()
    monkeypatch.setattr("typer.prompt", lambda *_a, **_o: "wrong")
    with pytest.raises(Malformed, match="cannot be opened"):
        logging_in.credentials(tmp_path / "key", False)


def test_a_form_of_key_that_cannot_be_opened_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = "b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0"  # aes256-ctr, bcrypt
    text = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{closed}\n-----END OPENSSH PRIVATE KEY-----\n"
    (tmp_path / "key").write_text(text)

    def load(_text: bytes, passphrase: bytes | None) -> Any:
        raise TypeError if passphrase is None else UnsupportedAlgorithm("Need bcrypt module")

    monkeypatch.setattr(serialization, "load_ssh_private_key", load)
    monkeypatch.setattr("typer.prompt", lambda *_a, **_o: "word")
    with pytest.raises(Malformed, match="bcrypt") as caught:
        logging_in.credentials(tmp_path / "key", False)
    assert "PKCS8" in caught.value.remedy


def test_a_password_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("typer.prompt", lambda *_a, **options: asked.append(options) or "very secret")
    key, password = logging_in.credentials(None, True)
    assert (key, password.get_secret_value()) == ("", "very secret")
    assert asked[0]["hide_input"] is True


@pytest.mark.parametrize("given", [(None, False, ""), (Path("k"), True, ""), (None, True, "dc")])
def test_there_is_one_way_to_log_in(given: tuple[Path | None, bool, str]) -> None:
    with pytest.raises(Malformed):
        logging_in.credentials(*given)
