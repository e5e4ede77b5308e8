"""Lives of a server whose recovery site is a resource group of Azure, by the double of Resource Manager.

A moment to die at lies around every write transaction of the catalog, and before every request that changes what Azure
has: pages of a disk, resources, what is granted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.file_site import FileExports, FileSite, Fuse
from tests.scenarios.recovery import drill
from tests.unit.vault.synthetic import MACHINE
from tests.waiting import until

from farshore.configuration_server.jobs.engine import JobEngine
from farshore.delivery.served import ServedDelivery
from farshore.delivery.uploaded import UploadedDelivery
from farshore.export.opening import open_devices
from farshore.export.preparation.wish import Report
from farshore.export.settings import ExportSettings
from farshore.model.identifiers import JobId
from farshore.recovery.context import EnrolmentDoor, RecoveryContext
from farshore.recovery.jobs import recovery_jobs
from farshore.sites.azure.settings import AzureSettings
from farshore.sites.azure.site import AzureSite
from farshore.sites.port import Way

_CHANGING = (b"PUT ", b"POST ", b"DELETE ")
_STEP = 1 << 20


PREPARED = b"prepared".ljust(512, b".")
"""What stands at the beginning of a disk whose guest was prepared."""


class PreparedExports(FileExports):
    """Whoever opens a disk there finds it prepared already, in its overlay."""

    def start(self, settings: ExportSettings) -> None:
        super().start(settings)
        for device in open_devices(settings).values():
            device.write(0, memoryview(PREPARED))
            device.close()


@dataclass(frozen=True)
class Cloud:
    """What opens the site: its settings and its secret."""

    settings: dict[str, Any]
    secret: bytes


@dataclass(frozen=True)
class Errand:
    """A job about one failover."""

    kind: str
    failover: str
    job: str
    home: bool = False
    """The failover is one to the site ``files``, which is at home."""


class _Counted(Fuse):
    """Its moments count once it is armed; they come from several threads."""

    def __init__(self) -> None:
        super().__init__(0)
        self.armed = False
        self._lock = threading.Lock()

    def arm(self, at: int) -> None:
        self.passed, self.at, self.armed = 0, at, True

    def moment(self) -> None:
        with self._lock:
            if self.armed:
                super().moment()


def over_azure(home: Path, cloud: Cloud, fuse: Fuse, seen: Callable[[bytes], None]) -> RecoveryContext:
    """The collaborators over a home, with Azure as every site. ``seen``: told of each request that changes something,
    before it is sent."""

    def moment(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "http.client.send" and bytes(arguments[1][:7]).startswith(_CHANGING):
            seen(bytes(arguments[1]).partition(b"\r\n")[0])
            fuse.moment()

    sys.addaudithook(moment)
    at_home = FileSite(home / "site-at-home", Fuse(0), way=Way.WRITTEN)
    site = AzureSite(home / "site", AzureSettings.model_validate(cloud.settings), secret=cloud.secret, name="cloud")
    return dataclasses.replace(
        drill.context(home, fuse),
        site=lambda name: at_home if name == "files" else site,
        enrolment=lambda: EnrolmentDoor("https://dr.example.com", "AB:CD", ("dr.example.com",)),
        upload=lambda _: UploadedDelivery(site, ServedDelivery(PreparedExports(fuse)), step=_STEP),
        prepare=lambda _disks, wish, _watch: Report("Debian", (f"drivers {' '.join(wish.drivers)}",)),
    )


def carry_out(home: Path, cloud: Cloud, errands: Sequence[Errand], at: int = 0, cancel_on: str = "") -> None:
    """Do one after another, those that have ended already not again, and die at the ``at``-th moment of the last. It is
    cancelled before the first request that has ``cancel_on`` in its line. Leaves in ``<home>/outcome.json`` the moments
    of the last one, and the jobs."""
    fuse, asked = _Counted(), threading.Event()

    def seen(line: bytes) -> None:
        if cancel_on and cancel_on.encode() in line and not asked.is_set():
            asked.set()
            drill._cancel(engine, JobId(errands[-1].job))

    over = over_azure(home, cloud, fuse, seen)
    engine = JobEngine(f"sqlite:///{home / 'jobs.sqlite'}", recovery_jobs(over))
    engine.launch()
    shown = []
    for errand in errands:
        job = JobId(errand.job)
        if errand is errands[-1]:
            fuse.arm(at)
        work = {"subject": str(MACHINE), "failover": errand.failover, **({"home": True} if errand.home else {})}
        engine.start(errand.kind, work, job)
        until(partial(drill._has_ended, engine, job), "the job's end", pause=0.01)
        shown.append(engine.show(job).model_dump(mode="json"))
    (home / "outcome.json").write_text(json.dumps({"moments": fuse.passed, "job": shown[-1], "jobs": shown}))
    os._exit(0)
