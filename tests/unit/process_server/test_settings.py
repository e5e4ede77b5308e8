"""Settings come from a file and the environment; a misspelt one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from farshore.model.errors import Malformed, Unauthenticated
from farshore.process_server.listening.peer import Peer, peer_of
from farshore.process_server.settings import load_settings


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('port = 1234\nstate = "/srv/spool"\n')
    monkeypatch.setenv("FARSHORE_PROCESS_SERVER_PORT", "4321")
    settings = load_settings(file)
    assert (settings.port, settings.state) == (4321, Path("/srv/spool"))


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(Malformed, match="The setting prot is not known here"):
        load_settings(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = 99999999\n", "The setting port takes a value of 65535 at most"),
        ('workers = "many"\n', "The setting workers takes a whole number"),
        ("port = = 1\n", "is not TOML"),
        ("port = '\udcff'\n", "is not TOML"),
    ],
)
def test_what_is_wrong_is_said_in_words(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Malformed, match=said) as caught:
        load_settings(file)
    assert not any(foreign in str(caught.value) for foreign in ("pydantic", "Input", "input_value", "99999999"))


def test_a_variable_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARSHORE_PROCESS_SERVER_PORT", "many")
    with pytest.raises(Malformed, match="The setting port takes a whole number"):
        load_settings(None)


def test_defaults_need_no_file() -> None:
    assert load_settings(None).port == 9443


def test_a_peer_is_read_from_the_uri_alone() -> None:
    names = (("DNS", "example.com"), ("URI", "farshore://machine/1234"))
    found = peer_of({"subjectAltName": names, "serialNumber": "0A1B"})
    assert found == Peer("machine", "1234")
    assert found.serial == "a1b"


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("https://x/y",),
        ("farshore://machine/1234", "farshore://machine/5678"),
        ("farshore://machine/1234", "https://x/y"),
        ("farshore://machine/1234/5",),
        ("farshore://machine/../1234",),
        ("farshore://Machine/1234",),
        ("farshore://machine@x/1234",),
        ("farshore://machine/1234?x",),
        ("farshore://machine/1234\n",),
        ("farshore://machine/",),
        ("farshore://master-target/1234",),  # which has no business with the data plane
    ],
)
def test_a_certificate_that_does_not_name_exactly_one_holder_names_none(uris: tuple[str, ...]) -> None:
    with pytest.raises(Unauthenticated):
        peer_of({"subjectAltName": tuple(("URI", uri) for uri in uris)})
