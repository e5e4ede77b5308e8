"""A vault's URL and an installation's folder are used exactly as they are given, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from farshore.configuration_server import setup
from farshore.configuration_server.settings import Settings
from farshore.model.errors import Malformed
from farshore.vault.stores.registry import open_store


@pytest.mark.parametrize("name", ["a b", "a%2520b", "a%23b", "größe", "a//b", "a/../b"])
def test_a_folder_is_the_one_that_the_url_names(tmp_path, name):
    (tmp_path / "a").mkdir()
    open_store(f"file://{tmp_path}/{name}/vault").put("x", [b"1"])
    plain = name.replace("%23", "#").replace("%25", "%")
    assert (tmp_path / plain / "vault" / "x").exists()


@pytest.mark.parametrize(
    "url",
    [
        "file:///srv/a#1/vault",
        "s3://bucket/a#1",
        "s3://bucket/a//b",
        "s3://bucket//b",
        "s3://bucket/b//",
        "s3://bucket/a/../b",
        "gs://bucket/./a",
        "s3://bucket/a\\b",
        "file:///srv/a?1/vault",
    ],
)
def test_what_cannot_be_used_as_it_is_given_is_refused(url):
    with pytest.raises(Malformed):
        open_store(url)


@pytest.mark.parametrize("name", ["a#b", "a%20b", "a?b", "a,b", "a:b", "../b", "a\nb"])
def test_an_installation_is_not_made_where_its_path_would_be_read_otherwise(tmp_path, name, capsys):
    assert setup.main(["--home", str(tmp_path / "x" / name), "--json"]) == 2
    assert "cannot be in" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "größe"])
def test_the_vault_of_an_installation_is_in_its_folder(tmp_path, name):
    settings = Settings(home=tmp_path / name)
    open_store(settings.vault).put("x", [b"1"])
    assert (tmp_path / name / "vault" / "x").exists()
    assert settings.catalog == f"sqlite:///{Path(tmp_path / name / 'catalog.sqlite')}"
