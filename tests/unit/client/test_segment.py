"""Names in paths lead where they say."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from urllib3.util import parse_url

from farshore.client.transport import segment


@pytest.mark.parametrize(
    "name", ["db1", "a/b", "..", ".", "../policies/default", "a?b=c", "a#b", "100 %", "größe", "v1.2"]
)
def test_a_name_stays_one_element_of_the_path(name: str) -> None:
    path = parse_url(f"https://server/v1/machines/{segment(name)}/points").path
    assert path is not None
    parts = path.split("/")
    assert parts[:3] == ["", "v1", "machines"]
    assert parts[4:] == ["points"]
    assert unquote(parts[3]) == name
