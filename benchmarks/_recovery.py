"""A recovery site and the jobs of recovery in one process, over vaults that a benchmark made: no wire, no agent."""

from __future__ import annotations

import time
from pathlib import Path

from farshore.api_types.failovers import FailoverKind, FailoverRequest
from farshore.catalog import epochs, failovers, policies, process_servers, sites
from farshore.catalog.database import Catalog
from farshore.catalog.tables import EpochRow, MachineRow, SiteRow
from farshore.catalog.upgrade import upgrade
from farshore.clock import SystemClock
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.delivery.served import ServedDelivery
from farshore.export.launch import ExportLauncher
from farshore.model.identifiers import DiskNumber, JobId, MachineId
from farshore.model.machine import DiskDescription, Firmware, MachineDescription, NicDescription
from farshore.model.states import FailoverAction, JobState, MachineState
from farshore.recovery.context import Patience, RecoveryContext
from farshore.recovery.jobs import recovery_jobs
from farshore.recovery.requests import Requests
from farshore.sites.port import Way
from farshore.sites.qemu.site import QemuSite
from farshore.vault.vault import Vault

_SERVER = "22222222-2222-4222-8222-222222222222"
_ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


def description(size: int, memory: int) -> MachineDescription:
    """A machine with one disk on virtio, which it starts from."""
    return MachineDescription(
        hostname="bench",
        firmware=Firmware.BIOS,
        processors=1,
        memory=memory,
        operating_system="",
        kernel="",
        architecture="x86_64",
        disks=(DiskDescription(DiskNumber(0), "vda", size, boot=True),),
        nics=(NicDescription("eth0", "52:54:00:00:00:01"),),
    )


class Office:
    """A server's part of recovery over ``vault``, which lies below ``folder``."""

    def __init__(self, folder: Path, vault: Vault, site: QemuSite) -> None:
        self.site = site
        self._job = ""
        self._catalog = Catalog(f"sqlite:///{folder / 'catalog.sqlite'}")
        upgrade(self._catalog.engine)
        with self._catalog.writing() as tx:
            policies.ensure_default(tx)
            process_servers.register(tx, _SERVER, "https://ps:9443", "1", time.time_ns())
            sites.add(tx, SiteRow(id="bench", kind="qemu", settings={}))
        context = RecoveryContext(
            catalog=self._catalog,
            clock=SystemClock(),
            folder=folder / "failovers",
            vault_url=vault.store.url,
            vault_key=lambda: vault.key_hex,
            site=lambda _id: self.site,
            deliveries={Way.SERVED: ServedDelivery(ExportLauncher())},
            sleep=time.sleep,
            patience=Patience(settle=0.0),
        )
        self._engine = JobEngine(f"sqlite:///{folder / 'jobs.sqlite'}", recovery_jobs(context))
        self._engine.launch()
        self._requests = Requests(self._catalog, context.clock, self._engine, "user/bench")

    def add(self, machine: MachineId, records: int) -> None:
        """A protected machine whose stream is stored as far as it goes."""
        now = time.time_ns()
        with self._catalog.writing() as tx:
            tx.add(
                MachineRow(id=machine, name=str(machine), state=MachineState.PROTECTED.value, enrolled=now,
                           policy="default", description={}, protect=True, process_server=_SERVER, epoch=1)
            )  # fmt: skip
            tx.flush()
            row = EpochRow(machine=machine, epoch=1, kind="initial", run="r", process_server=_SERVER, description={},
                           granted=now, consistent=True, received=records, stored=records, reported=now)  # fmt: skip
            epochs.add(tx, row)

    def bring_up(self, machine: MachineId) -> str:
        """Ask for a test failover; answers its id at once."""
        request = FailoverRequest(kind=FailoverKind.TEST, site="bench", forward={})
        self._job = self._requests.fail_over(str(machine), request).id
        with self._catalog.reading() as tx:
            return failovers.page(tx, str(machine), limit=1)[0].id

    def clean_up(self, failover: str) -> None:
        """Remove it, once its job has ended. Raises SystemExit if a job fails."""
        self._finish(self._job)
        self._finish(self._requests.act(FailoverAction.CLEAN_UP, failover).id)

    def _finish(self, job: str) -> None:
        while (shown := self._engine.show(JobId(job))).state not in _ENDED:
            time.sleep(0.05)
        if shown.state is not JobState.SUCCEEDED:
            raise SystemExit(f"{shown.kind}: {shown.error}")

    def close(self) -> None:
        """Stop."""
        for failover in self.site.present():
            self.site.destroy(failover)
        self._engine.close()
        self._catalog.close()
