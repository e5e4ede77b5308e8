"""The price table: the one that is shipped, one of the user's, and mistakes in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from farshore.model.errors import Malformed, NotFound
from farshore.vault.upkeep.prices import read_prices


@pytest.mark.parametrize(("url", "table"), [("s3://b/p", "s3"), ("az://c", "azure"), ("gs://b", "gcs")])
def test_each_provider_has_prices(url: str, table: str) -> None:
    found = read_prices(url)
    assert found is not None
    assert found.name == table
    assert 0 < found.requests["get"] < found.requests["put"]
    assert found.gib_month > 0


def test_a_folder_costs_nothing_unless_a_table_is_named() -> None:
    assert read_prices("file:///vault") is None
    found = read_prices("file:///vault", table="s3")
    assert found is not None
    # 200 machines that store six objects a minute each.
    assert found.month({"put": 200 * 6 * 60 * 24}) == pytest.approx(259.2)
    assert found.month({}, 100 << 30) == pytest.approx(2.3)


def test_a_users_table(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('[own]\nstores = ["s3"]\ncurrency = "EUR"\nput_per_1000 = 1\n')
    found = read_prices("s3://b", mine)
    assert found is not None
    assert (found.currency, found.month({"put": 10, "get": 5})) == ("EUR", pytest.approx(0.3))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stores = 1", "a value stands alone"),
        ("[a]\nstores = 3", "no list of schemes"),
        ('[a]\nstores = ["s3"]\nputs = 1', "'puts' is unknown"),
        ('[a]\nstores = ["s3"]\nget_per_1000 = -1', "'get_per_1000' is no price"),
        ('[a]\nstores = ["s3"]\ngib_month = nan', "'gib_month' is no price"),
        ("[a", "is not TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(text)
    with pytest.raises(Malformed, match=said):
        read_prices("s3://b", mine)
    with pytest.raises(NotFound):
        read_prices("s3://b", tmp_path / "none.toml")
