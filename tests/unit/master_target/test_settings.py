"""Settings of the master target, and what the server may name on its host."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from farshore.api_types.master_targets import HomeErrand
from farshore.master_target.settings import load_settings
from farshore.model.errors import Malformed


def test_a_server_that_took_the_place_of_the_first_is_named_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('server = "https://far.example.com"\n')
    assert load_settings(path).server == "https://far.example.com"
    monkeypatch.setenv("FARSHORE_MASTER_TARGET_SERVER", "https://nearer.example.com:8443")
    assert load_settings(path).server == "https://nearer.example.com:8443"
    assert load_settings(None).credentials == Path("/var/lib/farshore/master-target/credentials.json")


@pytest.mark.parametrize(
    "url", ["http://far.example.com", "far.example.com", "https://", "https://a b", "https://a\\n"]
)
def test_what_is_no_https_url_is_refused_by_its_name(tmp_path: Path, url: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(f'server = "{url}"\n')
    with pytest.raises(Malformed, match="server"):
        load_settings(path)


@pytest.mark.parametrize("name", ["../../etc", "..", "a/b", "", "a" * 64, "a\n", "/x"])
def test_a_failback_whose_name_leads_out_of_the_folder_is_not_begun(name: str) -> None:
    for names in ({"failover": name, "machine": "m"}, {"failover": "f", "machine": name}):
        with pytest.raises(ValidationError):
            HomeErrand(errand="look", places=[], **names)
