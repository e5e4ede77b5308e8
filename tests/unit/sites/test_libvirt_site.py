"""What a libvirt site looks at by itself before libvirtd is asked to start a machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.sites.test_command import FAILOVER, ORDER

from farshore.formats.disk_notice import DiskNotice
from farshore.model.errors import NotFound, TryLater, WrongState
from farshore.sites.libvirt.site import LibvirtSite
from farshore.sites.orders import write_order
from farshore.sites.port import WrittenDisk


def test_no_machine_is_started_from_a_disk_that_is_half_written_or_gone(tmp_path: Path) -> None:
    disk, home = tmp_path / "disk.raw", tmp_path / "site" / FAILOVER
    home.mkdir(parents=True)
    order = replace(ORDER, disks=(replace(ORDER.disks[0], medium=WrittenDisk(disk)),))
    (home / "order.json").write_bytes(write_order(order))
    site = LibvirtSite(tmp_path / "site")
    with pytest.raises(NotFound, match="gone"):
        site._see_to_its_disks(FAILOVER)
    disk.write_bytes(DiskNotice("vault", "4f6c", 0, "claim").encode().ljust(1 << 20, bytes(1)))
    with pytest.raises(WrongState, match="half written"):
        site._see_to_its_disks(FAILOVER)
    disk.write_bytes(bytes(1 << 20))
    site._see_to_its_disks(FAILOVER)
    (home / "order.json").write_bytes(write_order(ORDER))
    with pytest.raises(TryLater, match="Nothing exports"):
        site._see_to_its_disks(FAILOVER)
