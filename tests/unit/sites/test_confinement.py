"""Whom QEMU runs as."""

from __future__ import annotations

from pathlib import Path

import pytest

from farshore.sites.qemu import confinement
from farshore.sites.qemu.confinement import account, confined

ONE, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
WHOLE = "         0          0 4294967295\n"
CONTAINER = "         0     100000      65536\n"


@pytest.fixture
def maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(confinement.os, "geteuid", lambda: 0)
    monkeypatch.setattr(confinement, "_MAPS", (tmp_path / "uid_map", tmp_path / "uid_map"))
    return tmp_path / "uid_map"


def test_each_recovered_machine_has_an_id_of_its_own(maps: Path) -> None:
    maps.write_text(WHOLE)
    first, second, shared = account(ONE), account(OTHER), account()
    assert first is not None
    assert second is not None
    assert shared is not None
    assert first == account(ONE)
    assert len({first.user, second.user, shared.user}) == 3
    assert first.user == first.group
    assert first.user in confinement._APART
    assert f"--reuid={first.user}" in confined(["qemu"], machine=ONE)


@pytest.mark.parametrize("text", [CONTAINER, "", "junk\n"])
def test_where_this_host_maps_no_such_ids_all_share_one(maps: Path, text: str) -> None:
    maps.write_text(text)
    assert account(ONE) == account(OTHER) == account()


def test_who_is_not_root_has_nothing_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement.os, "geteuid", lambda: 1000)
    assert account(ONE) is None
