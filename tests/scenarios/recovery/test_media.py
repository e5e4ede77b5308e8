"""Whatever a recovered machine's disk is, it runs from it: an export at any address, a file, a block device."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.contract.guests import POLITE, SIZE, image
from tests.contract.places import QemuPlace, short_folder
from tests.loopdisks import loop_disk, require_root
from tests.unit.delivery.test_writing import silent
from tests.unit.export.memory_source import MemorySource

from farshore.delivery.ledger import Lading, Ledger
from farshore.delivery.raw_disk import RawDisk
from farshore.delivery.writing import write_disk
from farshore.export.nbd.server import NbdServer
from farshore.export.overlay import OverlayDevice
from farshore.export.raw_file import RawFileSource
from farshore.model.errors import NoSpace, Refused, TooSmall
from farshore.sites.port import Condition, Medium, ServedDisk, TcpAddress, Way, WrittenDisk
from farshore.sites.qemu.site import QemuSite

pytestmark = pytest.mark.root
STEP = 64 << 10


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def runs_from(medium: Medium, way: Way) -> None:
    """Boot from it until the guest says that it is up."""
    with short_folder() as folder:
        place = QemuPlace(folder, lambda _: medium, way)
        site, order = QemuSite(folder, accelerator="tcg", way=way), place.order()
        try:
            site.create(order)
            assert site.start(order.failover).condition is Condition.RUNNING
            place.wait_for_guest(order.failover)
            site.destroy(order.failover)
        finally:
            place.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_export_at_an_address_of_the_network(tmp_path: Path, host: str) -> None:
    device = OverlayDevice(RawFileSource(image(tmp_path / "disk", POLITE)), tmp_path / "overlay", "the guest")
    with contextlib.closing(device):
        server = NbdServer({"0": device})
        with pytest.raises(Refused, match="TLS"):
            server.listen_loopback(host="192.0.2.1")
        port = server.listen_loopback(host=host)
        server.start()
        try:
            runs_from(ServedDisk(TcpAddress(host, port), "0"), Way.SERVED)
        finally:
            server.close()


def deliver(data: bytes, path: Path, ledger_path: Path) -> None:
    with contextlib.ExitStack() as held:
        disk = RawDisk(path, len(data))
        held.callback(disk.close)
        ledger = Ledger(ledger_path, Lading("guest", disk.identity, len(data), STEP))
        held.callback(ledger.close)
        write_disk(MemorySource(data), disk, ledger, silent)


def test_a_disk_written_to_a_block_device(tmp_path: Path) -> None:
    data = image(tmp_path / "disk", POLITE).read_bytes()
    with loop_disk(SIZE + (1 << 20)) as target:
        target.write(0, b"\xaa" * (SIZE + (1 << 20)))
        deliver(data, target.device, tmp_path / "ledger")
        found = target.read()
        assert found[:SIZE].tobytes() == data, "zeroes too"
        assert np.all(found[SIZE:] == 0xAA), "and nothing beyond"
        runs_from(WrittenDisk(target.device), Way.WRITTEN)
    with loop_disk(SIZE - 4096) as target, pytest.raises(TooSmall):
        deliver(data, target.device, tmp_path / "another")


@contextlib.contextmanager
def file_system(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_and_the_delivery_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RawDisk, "check_room", lambda _self, _needed: None)  # others took it since
    data = np.random.default_rng(1).bytes(4 << 20)
    with file_system(tmp_path / "small", "6m") as folder:
        filler = folder / "filler"
        filler.write_bytes(bytes(4 << 20))
        with pytest.raises(NoSpace, match=str(folder / "disk")) as raised:
            deliver(data, folder / "disk", tmp_path / "ledger")
        assert "Free space" in raised.value.remedy
        filler.unlink()
        deliver(data, folder / "disk", tmp_path / "ledger")
        assert (folder / "disk").read_bytes() == data
