"""What requests and bytes cost, from a table that the user can edit (prices.toml beside this file is the default)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from farshore.model.errors import Malformed, NotFound

DEFAULT = Path(__file__).with_name("prices.toml")
DAYS_A_MONTH = 30
_GIB = 1 << 30
_PRICES = ("put_per_1000", "list_per_1000", "get_per_1000", "gib_month")


@dataclass(frozen=True)
class Prices:
    """``requests``: by kind, of one request. ``gib_month``: of a GiB for a month. In ``currency``."""

    name: str
    currency: str
    requests: Mapping[str, float]
    gib_month: float

    def month(self, requests_a_day: Mapping[str, float], stored: int = 0) -> float:
        """Return what a month with so many requests a day, by kind, and so many bytes costs."""
        asked = sum(number * self.requests.get(kind, 0.0) for kind, number in requests_a_day.items())
        return asked * DAYS_A_MONTH + stored / _GIB * self.gib_month


def read_prices(url: str, file: Path | None = None, table: str = "") -> Prices | None:
    """Return the prices for the vault at ``url``, or None if no table is for such a store. ``table``: the one to take.

    Raises NotFound and Malformed, naming the file and what is wrong in it.
    """
    path = file or DEFAULT
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise NotFound(f"{path} cannot be read.", remedy=f"Copy {DEFAULT} and edit the copy.") from cause
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise Malformed(f"{path} is not TOML: {cause}.", remedy=f"Compare it with {DEFAULT}.") from cause
    scheme = urlsplit(url).scheme
    known = {name: _prices(path, name, fields) for name, fields in tables.items()}
    if table:
        if table not in known:
            raise NotFound(f"{path} has no table {table!r}.", remedy=f"Its tables: {', '.join(known) or 'none'}.")
        return known[table]
    return next((known[name] for name, fields in tables.items() if scheme in fields["stores"]), None)


def _prices(path: Path, name: str, fields: Any) -> Prices:
    def wrong(what: str) -> Malformed:
        return Malformed(f"{path}: {what} in table {name!r}.", remedy=f"Compare it with {DEFAULT}.")

    if not isinstance(fields, dict):
        raise wrong("a value stands alone, not")
    odd = sorted(fields.keys() - {"stores", "currency", *_PRICES})
    if odd:
        raise wrong(f"{odd[0]!r} is unknown")
    stores, currency = fields.get("stores"), fields.get("currency", "USD")
    if not isinstance(stores, list) or not all(isinstance(one, str) for one in stores):
        raise wrong("'stores' is no list of schemes such as s3")
    if not isinstance(currency, str):
        raise wrong("'currency' is no text")
    for price in _PRICES:
        value = fields.get(price, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
            raise wrong(f"{price!r} is no price")
    return Prices(
        name,
        currency,
        {kind: float(fields.get(f"{kind}_per_1000", 0.0)) / 1000 for kind in ("put", "list", "get")},
        float(fields.get("gib_month", 0.0)),
    )
