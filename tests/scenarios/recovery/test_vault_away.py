"""A vault that is slow or away delays the guest and never fails its reads; what was paused goes on by itself."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest
from tests.contract.guests import image
from tests.contract.places import QemuPlace, short_folder
from tests.waiting import until

from farshore.export.nbd.server import NbdServer
from farshore.export.overlay import OverlayDevice
from farshore.export.raw_file import RawFileSource
from farshore.model.errors import Unreachable
from farshore.sites.port import Condition, ServedDisk, UnixAddress, Way
from farshore.sites.qemu.site import QemuSite

pytestmark = pytest.mark.root
# ds = es = ss = 0; then: read the sector of head 3 (94.5 KiB from the beginning) by the BIOS, and write "r" or, where
# that failed, "E" to COM1; once more, for ever.
READING = bytes.fromhex("fa 31c0 8ed8 8ec0 8ed0 bc007cb80102 bb0080 b90100 ba8003 cd13b072 7302 b045 baf803 eeebe6")
STEP = 64 << 10


class Vault(RawFileSource):
    """A disk of a point; all behind its first 64 KiB is away, or late, until ``back``."""

    def __init__(self, path: Path, how: str) -> None:
        super().__init__(path)
        self.how = how
        self.asked = 0
        self.back = threading.Event()

    def resident(self, offset: int, length: int) -> bool:
        return False

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset + len(buffer) > STEP and not self.back.is_set():
            self.asked += 1
            if self.how == "away":
                raise Unreachable("The store does not answer.", remedy="Wait for it.")
            self.back.wait(60)
        super().read_into(offset, buffer)


@pytest.mark.parametrize("how", ["away", "late"])
def test_no_read_of_the_guest_fails(tmp_path: Path, how: str) -> None:
    with short_folder() as folder:
        source = Vault(image(tmp_path / "disk", READING), how)
        device = OverlayDevice(source, tmp_path / "overlay", "the guest")
        with contextlib.closing(device):
            server = NbdServer({"0": device})
            listener = folder / "nbd" / "nbd.sock"
            listener.parent.mkdir()
            server.listen_unix(listener)
            server.start()
            place = QemuPlace(folder / "site", lambda _: ServedDisk(UnixAddress(listener), "0"), Way.SERVED)
            site, order = QemuSite(place.folder, accelerator="tcg"), place.order()
            console = site.console(order.failover)
            try:
                site.create(order)
                site.start(order.failover)
                until(lambda: source.asked > 0, "the guest's read")
                if how == "away":
                    until(lambda: site.status(order.failover).condition is Condition.PAUSED, "the pause")
                    site.resume(order.failover)  # as the upkeep does; the vault is still away
                    until(lambda: source.asked > 1, "the second try")
                    until(lambda: site.status(order.failover).condition is Condition.PAUSED, "the next pause")
                assert "r" not in said(console)
                source.back.set()
                if how == "away":
                    site.resume(order.failover)
                until(lambda: "rrr" in said(console), "the reads")
                assert "E" not in said(console)
                site.destroy(order.failover)
            finally:
                source.back.set()
                place.close()
                server.close()


def said(console: Path) -> str:
    """Behind what the firmware said."""
    return console.read_text(errors="replace").rpartition("\n")[2] if console.exists() else ""
