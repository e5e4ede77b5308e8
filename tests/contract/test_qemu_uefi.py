"""QEMU as it is installed takes the firmware and the variables of a UEFI machine, confined as it is. Whether a guest
starts by them is tests/scenarios/recovery/test_uefi_guest.py's to say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.places import open_site, qemu_place
from tests.uefi import PARTITION, empty_store, entry, hard_drive, variables

from farshore.model.machine import Firmware
from farshore.sites.port import Condition
from farshore.sites.qemu.command import RunFiles

pytestmark = pytest.mark.root
ENTRY = entry("debian", hard_drive(PARTITION) + b"\x7f\xff\x04\x00")


def test_a_uefi_machine_starts_with_its_own_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with qemu_place() as place:
        # Read by QEMU, which runs as another user; nothing in it is ever carried out to an end.
        code = place.folder / "OVMF_CODE.fd"
        code.write_bytes(bytes(256 << 10))
        (place.folder / "OVMF_VARS.fd").write_bytes(empty_store(64 << 10))
        for path in (place.folder, code):
            path.chmod(0o755)
        monkeypatch.setattr("farshore.sites.qemu.site.FIRMWARE", (code,))
        order = place.order()
        machine = replace(order.machine, firmware=Firmware.UEFI, boot_entries=(ENTRY.hex(),))
        site = open_site(place.kind, place.folder)
        site.create(replace(order, machine=machine))
        assert site.start(order.failover).condition is Condition.RUNNING
        held = variables(RunFiles(place.folder / order.failover).variables.read_bytes())
        assert held == {"Boot0000": ENTRY, "BootOrder": b"\0\0"}
        site.destroy(order.failover)
