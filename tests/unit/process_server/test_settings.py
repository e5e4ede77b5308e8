"""Settings come from a file and the environment; a misspelt one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from farshore.model.errors import Unauthenticated
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
    with pytest.raises(ValidationError):
        load_settings(file)


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
    ],
)
def test_a_certificate_that_does_not_name_exactly_one_holder_names_none(uris: tuple[str, ...]) -> None:
    with pytest.raises(Unauthenticated):
        peer_of({"subjectAltName": tuple(("URI", uri) for uri in uris)})
