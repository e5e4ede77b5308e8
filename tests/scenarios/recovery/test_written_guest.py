"""A Debian system that comes up from a written disk, without export and vault, and is stopped, started and deleted.

The whole job with the real site; only the machine's protection is done in one process, without a wire.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from benchmarks._protect import copy_base
from tests.scenarios.recovery.drill import ENDED, SERVER
from tests.waiting import PATIENCE, until

from farshore.api_types.failovers import FailoverKind, FailoverRequest
from farshore.api_types.jobs import Job
from farshore.catalog import epochs, failovers, policies, process_servers, sites
from farshore.catalog.database import Catalog
from farshore.catalog.tables import EpochRow, MachineRow, SiteRow
from farshore.catalog.upgrade import upgrade
from farshore.clock import SystemClock
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.delivery.written import WrittenDelivery
from farshore.lab.accelerator import accelerator_for
from farshore.lab.cache import cache_folder
from farshore.lab.image import ensure_image
from farshore.lab.ports import free_port
from farshore.lab.recipe import GuestRecipe
from farshore.lab.shell import Shell
from farshore.model.identifiers import DiskNumber, JobId, MachineId
from farshore.model.machine import DiskDescription, Firmware, MachineDescription, NicDescription
from farshore.model.states import FailoverAction, JobState, MachineState
from farshore.recovery.context import Patience, RecoveryContext
from farshore.recovery.jobs import recovery_jobs
from farshore.recovery.requests import Requests
from farshore.sites.port import Way
from farshore.sites.qemu.site import QemuSite
from farshore.vault import OwnerKey, Vault, open_store

pytestmark = [
    pytest.mark.soak,
    pytest.mark.root,
    pytest.mark.guest,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]
MACHINE = MachineId("11111111-1111-4111-8111-111111111111")
SITE = "written"
_BOOT_SECONDS = 1200.0
"""An emulated system on a busy host needs minutes."""


class World:
    """A Debian system in a vault, and a server that can fail it over to a site that wants written disks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = ensure_image(GuestRecipe())
        self.port = free_port()
        vault = Vault.create(open_store(f"file://{folder / 'vault'}"), OwnerKey.generate_file(folder / "owner.key"))
        machine = vault.machine(MACHINE, create=True)
        size = self.image.disk.stat().st_size
        described = MachineDescription(
            hostname="db1",
            firmware=Firmware.BIOS,
            processors=2,
            memory=1 << 30,
            operating_system="Debian 12",
            kernel="6.1",
            architecture="x86_64",
            disks=(DiskDescription(DiskNumber(0), "vda", size, boot=True),),
            nics=(NicDescription("eth0", "52:54:00:00:00:01"),),
        )
        machine.writing.put_description(described, 1)
        copy_base(vault, machine, self.image.disk)
        self.catalog = Catalog(f"sqlite:///{folder / 'catalog.sqlite'}")
        self._fill_catalog()
        accelerator = accelerator_for(cache_folder(), self.image.kernel)
        self.site = QemuSite(
            folder / "sites", "tcg" if accelerator.emulated else "kvm", self.image.kernel, name=SITE, way=Way.WRITTEN
        )
        self.context = RecoveryContext(
            catalog=self.catalog,
            clock=SystemClock(),
            folder=folder / "failovers",
            vault_url=f"file://{folder / 'vault'}",
            vault_key=lambda: vault.key_hex,
            site=lambda _id: self.site,
            deliveries={Way.WRITTEN: WrittenDelivery()},
            sleep=time.sleep,
            patience=Patience(drain=0.1, answer=_BOOT_SECONDS),
        )
        self.engine = JobEngine(f"sqlite:///{folder / 'jobs.sqlite'}", recovery_jobs(self.context))
        self.engine.launch()
        self.requests = Requests(self.catalog, self.context.clock, self.engine, "user/admin")

    def _fill_catalog(self) -> None:
        upgrade(self.catalog.engine)
        now = time.time_ns()
        with self.catalog.writing() as tx:
            policies.ensure_default(tx)
            process_servers.register(tx, SERVER, "https://ps:9443", "1", now)
            sites.add(tx, SiteRow(id=SITE, kind="qemu", settings={"disks": "written"}))
            tx.add(
                MachineRow(id=MACHINE, name="db1", state=MachineState.PROTECTED.value, enrolled=now, policy="default",
                           description={}, protect=True, process_server=SERVER, epoch=1)
            )  # fmt: skip
            tx.flush()
            row = EpochRow(machine=MACHINE, epoch=1, kind="initial", run="r", process_server=SERVER, description={},
                           granted=now, consistent=True, received=0, stored=0, reported=now)  # fmt: skip
            epochs.add(tx, row)

    def finish(self, job: Job) -> Job:
        identifier = JobId(job.id)
        until(lambda: self.engine.show(identifier).state in ENDED, f"the end of {job.kind}", seconds=_BOOT_SECONDS)
        ended = self.engine.show(identifier)
        assert ended.state is JobState.SUCCEEDED, (ended.error, ended.remedy)
        return ended

    def shell(self) -> Shell:
        shell = Shell(self.port, self.image.ssh_key, self.image.host_key)
        shell.wait(_BOOT_SECONDS)
        return shell

    def standing(self, failover: str) -> str:
        with self.catalog.reading() as tx:
            return str(failovers.get(tx, failover).state)

    def close(self) -> None:
        for failover in self.site.present():
            self.site.destroy(failover)
        self.engine.close()
        self.catalog.close()


@pytest.fixture
def world() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="fs-"))  # a short path: the names of Unix sockets below it are limited
    try:
        made = World(folder)
        yield made
        made.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_machine_lives_on_its_written_disk_alone(world: World) -> None:
    wanted = FailoverRequest(kind=FailoverKind.FAILOVER, site=SITE, forward={world.port: 22})
    job = world.finish(world.requests.fail_over(MACHINE, wanted))
    assert job.result["checked"] == "its port 22 answered"
    failover = str(job.result["failover"])
    disk = world.folder / "failovers" / failover / "disk-0.raw"
    assert disk.stat().st_blocks * 512 < disk.stat().st_size, "sparse"
    shutil.rmtree(world.folder / "vault")
    note = str(uuid.uuid4())
    with world.shell() as shell:
        assert shell.run("cat /sys/class/dmi/id/product_uuid").output.strip() == failover
        assert "ext4" in shell.run("findmnt --noheadings --output FSTYPE /").output
        shell.run(f"echo {note} > /root/note; sync; echo 3 > /proc/sys/vm/drop_caches")
        shell.run("cat /usr/bin/* > /dev/null", seconds=PATIENCE)
        assert "I/O error" not in shell.run("dmesg", check=False).output
    act = partial(world.requests.act, failover=failover)
    world.finish(act(FailoverAction.COMMIT))
    world.finish(act(FailoverAction.STOP))
    with disk.open("rb") as file:
        assert any(note.encode() in piece for piece in iter(partial(file.read, 16 << 20), b"")), "it is in the file"
    world.finish(act(FailoverAction.START))
    with world.shell() as shell:
        assert shell.run("cat /root/note").output.strip() == note
    world.finish(act(FailoverAction.DELETE))
    assert not disk.exists()
    assert world.site.present() == ()
