"""Where the agent may keep its .hrl file: only where its own writes can be left out of the capture."""

from __future__ import annotations

import pytest
from tests.loopdisks import loop_disk, require_root

from farshore.api_types.machines import CheckSeverity
from farshore.mobility.checks.room import check_state
from farshore.mobility.copying.protected_disks import spill_is_safe
from farshore.mobility.settings import Settings

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.mark.parametrize(("fstype", "safe"), [("ext4", True), ("xfs", True), ("btrfs", False)])
def test_the_state_directory_on_a_protected_disk(fstype: str, safe: bool) -> None:
    require_root()
    with loop_disk(400 * MIB, fstype) as disk, loop_disk(64 * MIB) as other:
        settings = Settings(state=disk.folder, spill_bytes=64 * MIB)
        spill = disk.folder / "machine.hrl"
        for made in (False, True):
            if made:
                spill.write_bytes(bytes(64 * MIB))
                assert spill_is_safe(spill, [disk.disk]) is safe
                assert spill_is_safe(spill, [other.disk])
            (found,) = check_state(settings, frozenset({disk.disk.device}), spill)
            assert (found.severity is CheckSeverity.OK) is safe, found
            assert safe or "does not report where" in found.message
            (found,) = check_state(settings, frozenset({other.disk.device}), spill)
            assert found.severity is CheckSeverity.OK, "on a disk that is not captured any file system will do"
