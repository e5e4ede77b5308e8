"""A machine starts from a disk on every bus that its target may name: the firmware reads the boot sector over it."""

from __future__ import annotations

import pytest
from tests.contract.places import open_site, qemu_place

from farshore.model.target import DiskBus
from farshore.sites.port import Condition

pytestmark = pytest.mark.root


@pytest.mark.parametrize("bus", [DiskBus.SATA, DiskBus.VIRTIO_SCSI, DiskBus.PVSCSI])
def test_a_machine_starts_from_any_bus(bus: DiskBus) -> None:
    with qemu_place() as place:
        order = place.order(disk_bus=bus)
        site = open_site(place.kind, place.folder)
        site.create(order)
        assert site.start(order.failover).condition is Condition.RUNNING
        place.wait_for_guest(order.failover)
        site.destroy(order.failover)
