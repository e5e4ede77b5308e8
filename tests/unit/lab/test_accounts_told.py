"""When the demo calls the accounts of the frozen disk good, and what its table then says."""

from __future__ import annotations

from typing import Any

import pytest

from farshore.lab.demo.story import _agree, _told

MIB = 1 << 20


def account(**changed: Any) -> dict[str, Any]:
    settled = {"disk": 0, "seen": 9 * MIB, "captured": 6 * MIB, "bitmap": 2 * MIB, "excluded": MIB, "verdict": "ok"}
    return {**settled, **changed}


def test_settled_accounts_agree() -> None:
    assert _agree([account(), account(disk=1)])
    assert _told([account(), account(disk=1)]) == "ok over 18 MiB"


@pytest.mark.parametrize(
    ("accounts", "told"),
    [
        ([], "not reported"),
        ([account(verdict="unsettled")], "unsettled"),
        ([account(), account(disk=1, verdict="blind")], "blind, ok"),
        ([account(verdict="gap of 512 bytes")], "gap of 512 bytes"),
        ([account(captured=6 * MIB - 512)], "ok: "),
    ],
)
def test_anything_else_does_not_and_the_state_is_told(accounts: list[dict[str, Any]], told: str) -> None:
    assert not _agree(accounts)
    assert _told(accounts).startswith(told)
