"""The guest's QEMU command line."""

from __future__ import annotations

from pathlib import Path

from farshore.lab.accelerator import Accelerator
from farshore.lab.command import GuestSettings, guest_command

DISK, FOLDER = Path("/lab/disk.raw"), Path("/lab")


def test_ports_lead_from_the_loopback_only() -> None:
    command = guest_command(GuestSettings(), DISK, FOLDER, {2201: 22, 2202: 5432}, Accelerator("tcg", "Westmere"))
    network = next(part for part in command if part.startswith("user,"))
    assert "hostfwd=tcp:127.0.0.1:2201-:22,hostfwd=tcp:127.0.0.1:2202-:5432" in network


def test_every_disk_is_raw_and_only_the_first_boots() -> None:
    settings = GuestSettings(data_disks=(Path("/lab/data.raw"),))
    command = guest_command(settings, DISK, FOLDER, {}, Accelerator("kvm", "host"))
    devices = [part for part in command if part.startswith("virtio-blk-pci")]
    assert ["bootindex" in device for device in devices] == [True, False]
    assert sum(part.startswith("driver=raw,") for part in command) == 2
    assert "kvm" in command
    assert not any(part.startswith("tcg") for part in command)
