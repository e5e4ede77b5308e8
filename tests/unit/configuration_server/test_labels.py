"""Names in requests: any characters but those that drive a terminal, and not without end."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from farshore.api_types.machines import MachineAddition, TokenRequest
from farshore.api_types.points import PointRequest

REQUESTS: list[tuple[type[BaseModel], dict[str, str]]] = [
    (PointRequest, {}),
    (TokenRequest, {}),
    (MachineAddition, {"host": "db1", "private_key": "key"}),
]


@pytest.mark.parametrize(("kind", "rest"), REQUESTS)
def test_a_name_is_bounded(kind, rest):
    for good in ("", "before [/etc] upgrade", "vor dem Umbau – 日本", "x" * 200):
        assert kind.model_validate({"name": good, **rest}).name == good
    for bad in ("x" * 201, "a\nb", "a\n", "\x1b[2J", "\x7f", "\x9b2J", "\x00"):
        with pytest.raises(ValidationError, match="name"):
            kind.model_validate({"name": bad, **rest})
