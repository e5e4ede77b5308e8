"""Of the vSphere site, at a simulated vCenter whose disks hold bytes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.contract.guests import POLITE, image
from tests.contract.places import an_order, short_folder
from tests.vcenter.running import PASSWORD, USER, Vcenter, vcenter

from farshore.sites.port import FailoverId, RecoveryOrder, WrittenDisk
from farshore.vsphere import power, recovered
from farshore.vsphere.certificates import look
from farshore.vsphere.recovered import Seen
from farshore.vsphere.session import Login, session

PROXY = "DC0_C0_RP0_VM0"


class VspherePlace:
    """Its machines are looked at by a session of its own."""

    parts = ("order.json", "folder")
    forwards = False
    ingests = True

    def __init__(self, folder: Path, disks: Path, server: Vcenter) -> None:
        self.server, self.folder, self._disks = server, folder, disks
        self.login = Login(server.host, server.port, USER, look(server.host, server.port).pem, PASSWORD)
        fingerprint = look(server.host, server.port).fingerprint
        self.kind = f"vsphere {server.port} {fingerprint}"

    def order(self, **changes: Any) -> RecoveryOrder:
        return an_order(lambda failover: WrittenDisk(image(self._disks / failover, POLITE)), **changes)

    def living(self, failover: FailoverId) -> int:
        seen = self._seen(failover)
        return int(seen is not None and seen.power == "poweredOn")

    def kill(self, failover: FailoverId) -> None:
        seen = self._seen(failover)
        if seen is not None:
            self.server.die(seen.id)

    def shut_down(self, failover: FailoverId) -> None:
        """As its guest's own shutdown is seen there."""
        seen = self._seen(failover)
        assert seen is not None
        with session(self.login) as opened:
            power.shut_down_guest(opened, seen.id)

    def delete(self, failover: FailoverId, part: str) -> None:
        home = self.folder / failover
        if part == "folder":
            shutil.rmtree(home)
        else:
            (home / part).unlink()

    def _seen(self, failover: FailoverId) -> Seen | None:
        with session(self.login) as opened:
            return recovered.of_failover(opened, failover)


@contextmanager
def vsphere_place() -> Iterator[VspherePlace]:
    with (
        short_folder() as folder,
        short_folder() as disks,
        tempfile.TemporaryDirectory(prefix="vc-") as home,
        vcenter(Path(home), 1, proxy=PROXY) as server,
    ):
        yield VspherePlace(folder, disks, server)
