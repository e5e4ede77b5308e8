"""What the probe says of kernels that refuse a part, or all, of what data mode takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import loopdisks
from tests.loopdisks import require_data_mode, require_root

from farshore.mobility.capture import probe as probing
from farshore.mobility.capture.probe import probe
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _root():
    require_root()


def test_this_kernel_takes_both_programs():
    require_data_mode()
    assert probe().mode is CaptureMode.DATA
    assert probing._refusal(probing.BITMAP_OBJECT) is None


def test_a_refused_program_leaves_the_bitmap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    require_data_mode()
    refused = tmp_path / "capture.bpf.o"
    refused.write_bytes(probing.OBJECT.read_bytes()[:4000])
    monkeypatch.setattr(probing, "OBJECT", refused)
    ability = probe()
    assert ability.mode is CaptureMode.BITMAP
    (obstacle,) = ability.obstacles
    assert "capture.bpf.o" in obstacle.reason
    assert obstacle.remedy


def test_an_old_kernel_leaves_the_bitmap(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probing.Library, "supports_loop", lambda library: False)
    ability = probe()
    assert ability.mode is CaptureMode.BITMAP
    assert "bpf_loop" in ability.obstacles[0].reason


def test_without_ebpf_it_scans_and_says_so_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FARSHORE_LIBBPF", "/nowhere/libbpf.so.1")
    ability = probe()
    assert ability.mode is CaptureMode.SCAN
    (obstacle,) = ability.obstacles
    assert "libbpf" in obstacle.reason


def test_without_types_it_scans(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(probing, "BTF", tmp_path / "vmlinux")
    ability = probe()
    assert ability.mode is CaptureMode.SCAN
    assert "BTF" in ability.obstacles[0].reason


@pytest.mark.parametrize(("ci", "outcome"), [("false", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_host_with_an_older_kernel_is_told_so_by_the_tests(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
):
    old = probing.Ability(CaptureMode.BITMAP, (probing.Obstacle("Kernel 5.15 lacks bpf_loop.", "Upgrade."),))
    monkeypatch.setattr(loopdisks, "_ability", lambda: old)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r"Linux 5\.17 or later.*Kernel 5\.15 lacks bpf_loop\. Upgrade\."):
        require_data_mode()
