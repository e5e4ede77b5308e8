"""Which libbpf is taken where the bundle's own cannot be loaded, as on a machine with an older C library."""

from __future__ import annotations

from pathlib import Path

import pytest

from farshore.mobility.capture import libbpf
from farshore.model.errors import Unsupported


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle's folder whose libelf the loader refuses."""
    for name in ("libelf.so.1", "libbpf.so.1"):
        (tmp_path / name).write_bytes(b"for another C library")
    monkeypatch.setattr(libbpf, "BUNDLED", tmp_path)
    return tmp_path


def test_the_systems_own_is_taken(bundled: Path) -> None:
    assert libbpf.Library().path in libbpf.SYSTEM_NAMES


def test_without_any_the_loaders_reason_is_told(bundled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARSHORE_LIBBPF", str(bundled / "libbpf.so.1"))
    with pytest.raises(Unsupported, match=r"libelf\.so\.1.*(header|short)"):
        libbpf.Library()
