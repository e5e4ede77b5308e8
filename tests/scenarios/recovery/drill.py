"""One life of a server that works on a recovery job, in a process of its own so that it can be killed.

``prepare`` makes a home with a vault, a catalog and a protected machine; ``live`` launches the jobs over it, starts
the job if it has not been, and waits until it has ended. The exit status is that of the process: 0, or a signal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.file_site import FileExports, FileSite, Fuse
from tests.scenarios.recovery.doubles import DoomedCatalog, DoomedDisk
from tests.scenarios.recovery.one_host import OneHost
from tests.unit.vault.synthetic import MACHINE, Machine
from tests.vcenter.running import PASSWORD
from tests.waiting import PATIENCE, until

from farshore.api_types.failovers import FailoverRequest
from farshore.catalog import epochs, failovers, machines, policies, process_servers, sites
from farshore.catalog.database import Catalog
from farshore.catalog.tables import EpochRow, FailoverRow, MachineRow, SiteRow
from farshore.catalog.upgrade import upgrade
from farshore.clock import SystemClock
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.delivery.in_place import InPlaceDelivery
from farshore.delivery.served import ServedDelivery
from farshore.delivery.written import WrittenDelivery
from farshore.durable.steps import Persistence
from farshore.export.launch import ExportLauncher
from farshore.export.settings import ExportSettings
from farshore.model.errors import Refused, TryLater, WrongState
from farshore.model.identifiers import JobId, MachineId, new_id
from farshore.model.states import Direction, JobState, MachineState
from farshore.recovery import jobs as recovery
from farshore.recovery.context import Patience, RecoveryContext
from farshore.recovery.jobs import recovery_jobs
from farshore.recovery.lost_sites import opened
from farshore.sites.port import Condition, FailoverId, RecoveredMachine, RecoveryOrder, RecoverySite, Way
from farshore.sites.qemu.site import QemuSite
from farshore.sites.vsphere.settings import VsphereSettings
from farshore.sites.vsphere.site import VsphereSite
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vsphere.session import Login
from farshore.vsphere.sources import sources_at

SERVER = "22222222-2222-4222-8222-222222222222"
SOAK = os.environ.get("FARSHORE_SOAK") == "1"
ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Task:
    """One job to be carried out, and where to die."""

    home: Path
    kind: str
    failover: str
    job: str
    die_at: int = 0
    refuse: bool = False
    """Its start is refused by the site."""
    guests: bool = False
    """Machines and exports are real ones."""
    work: dict[str, Any] | None = None
    """What the job is started with; None: that it is about ``failover``, of MACHINE."""
    way: Way = Way.SERVED
    """How the site asks for disks."""
    passing: bool = False
    """At ``die_at`` there is an error that passes, and no death."""
    stream: float = 60.0
    """Seconds for which an agent is awaited."""
    hold: int = 0
    """Seconds for which a machine that goes home is held still."""
    silent: float = 1e9
    """Seconds that a process server may be silent."""
    everywhere: bool = False
    """The fuse burns at all moments, also in the gate, however disks are delivered."""
    endpoint: int = 0
    """A port of the loopback that agents need; 0: they need none."""
    lost: str = ""
    """A failover whose site does not answer any more."""
    declared: bool = False
    """Sites may have been declared lost."""
    vmware: Login | None = None
    """The VMware server of its source."""
    vsphere: dict[str, Any] | None = None
    """Settings of a vSphere site ``dc1``."""


def machine_id(number: int) -> str:
    """The first is MACHINE."""
    return str(uuid.UUID(int=7 + number))


def prepare(home: Path, names: Sequence[str] = ("web1",), boot: bytes = b"", hardware: str = "") -> None:
    """Machines with a few recovery points each, protected, their process server up to date.

    ``boot``: their disks boot this code (tests.contract.guests). ``hardware``: the UUID of theirs.
    """
    store = open_store(f"file://{home / 'vault'}")
    vault = Vault.create(store, OwnerKey.generate_file(home / "owner.key"))
    (home / "key").write_text(vault.key_hex)
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    upgrade(catalog.engine)
    now = time.time_ns()
    with catalog.writing() as tx:
        policies.ensure_default(tx)
        process_servers.register(tx, SERVER, "https://ps:9443", "1", now)
        sites.add(tx, SiteRow(id="files", kind="qemu"))
    for number, name in enumerate(names):
        machine = Machine(vault, seed=1 + number, sizes={0: 3 << 20}, machine=MachineId(machine_id(number)))
        machine.description = dataclasses.replace(machine.description, hardware_id=hardware)
        machine.fill()
        sector = boot.ljust(510, b"\0") + b"\x55\xaa"
        if boot:
            machine.disks[0][:512] = sector
        machine.begin_epoch(None)
        machine.journal(segments=3, batches=1, count=4)
        assert not boot or machine.disks[0][:512] == sector, "the journal has written over it: take another seed"
        (home / f"{name}.raw").write_bytes(machine.disks[0])
        description = {"hostname": name}
        with catalog.writing() as tx:
            tx.add(
                MachineRow(id=machine.id, name=name, state=MachineState.PROTECTED.value, enrolled=now,
                           policy="default", description=description, protect=True, process_server=SERVER, epoch=1)
            )  # fmt: skip
            tx.flush()
            epochs.add(
                tx,
                EpochRow(machine=machine.id, epoch=1, kind="initial", run="r", process_server=SERVER,
                         description=description, granted=now, consistent=True, received=12, stored=12, reported=now),
            )  # fmt: skip
    catalog.close()


def request(home: Path, failover: str, job: str, kind: str, direction: Direction = Direction.AWAY, **more: Any) -> None:
    """What the API does: the row that the job works on."""
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    asked = FailoverRequest.model_validate({"kind": kind, "site": "files", **more})
    with catalog.writing() as tx:
        row = FailoverRow(id=failover, machine=MACHINE, kind=kind, state="requested", site=asked.site, job=job,
                          direction=direction.value, request=asked.model_dump(mode="json"),
                          requested=time.time_ns())  # fmt: skip
        failovers.add(tx, row)
    catalog.close()


class FullSite(FileSite):
    """Refuses to start ``refused``."""

    def __init__(self, folder: Path, fuse: Fuse, refused: str, way: Way) -> None:
        super().__init__(folder, fuse, way=way)
        self.refused = refused

    def start(self, failover: FailoverId) -> RecoveredMachine:
        if failover != self.refused:
            return super().start(failover)
        with self.fuse.around():
            raise Refused("There is no room for it.", remedy="Make room.")


class LostSite(FullSite):
    """Does not answer about ``lost``, as a site that is lost with all that it has."""

    lost = ""

    def status(self, failover: FailoverId) -> RecoveredMachine:
        self._ask(failover)
        return super().status(failover)

    def stop(self, failover: FailoverId, *, grace: float) -> None:
        self._ask(failover)
        super().stop(failover, grace=grace)

    def destroy(self, failover: FailoverId) -> None:
        self._ask(failover)
        super().destroy(failover)

    def _ask(self, failover: FailoverId) -> None:
        if failover == self.lost:
            raise TryLater("The site files does not answer.", remedy="See that it runs.")


class DoomedSite(QemuSite):
    """A site with real guests, around whose changes the fuse burns."""

    def __init__(self, folder: Path, fuse: Fuse) -> None:
        super().__init__(folder, accelerator="tcg")
        self._fuse = fuse

    def create(self, order: RecoveryOrder) -> None:
        with self._fuse.around():
            super().create(order)

    def start(self, failover: FailoverId) -> RecoveredMachine:
        with self._fuse.around():
            return super().start(failover)

    def stop(self, failover: FailoverId, *, grace: float) -> None:
        with self._fuse.around():
            super().stop(failover, grace=grace)

    def destroy(self, failover: FailoverId) -> None:
        with self._fuse.around():
            super().destroy(failover)


class DoomedExports(ExportLauncher):
    """Real exports, around which the fuse burns."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse

    def start(self, settings: ExportSettings) -> None:
        with self._fuse.around():
            super().start(settings)

    def stop(self, folder: Path) -> None:
        with self._fuse.around():
            super().stop(folder)


def with_guests(home: Path, fuse: Fuse) -> RecoveryContext:
    """The same with real machines, served by real exports. Keep the path of ``home`` short: it holds sockets."""
    return dataclasses.replace(
        context(home, fuse),
        site=lambda _kind: DoomedSite(home / "site", fuse),
        deliveries={Way.SERVED: ServedDelivery(DoomedExports(fuse))},
        patience=Patience(drain=0.1, settle=0.5, poll=0.05, answer=60.0),
    )


def context(
    home: Path, fuse: Fuse, *, refused: str = "", way: Way = Way.SERVED, everywhere: bool = False
) -> RecoveryContext:
    """The collaborators over a home. In the gate, where disks are written the fuse burns around the disk alone: all
    other moments are those of a failover whose disks are served."""
    disk_fuse, most = fuse, 1000 if SOAK else 2
    if way is Way.WRITTEN and not SOAK and not everywhere:
        fuse = Fuse(0)
    return RecoveryContext(
        catalog=DoomedCatalog(f"sqlite:///{home / 'catalog.sqlite'}", fuse),
        clock=SystemClock(),
        folder=home / "failovers",
        vault_url=f"file://{home / 'vault'}",
        vault_key=(home / "key").read_text,
        site=lambda _kind: FullSite(home / "site", fuse, refused, way),
        deliveries={
            Way.SERVED: ServedDelivery(FileExports(fuse)),
            Way.WRITTEN: InPlaceDelivery(
                WrittenDelivery(lambda path, size: DoomedDisk(path, size, disk_fuse, most), step=2 << 20),
                OneHost(f"file://{home / 'vault'}", (home / "key").read_text, home / "master-target"),
            ),
        },
        sleep=time.sleep,
        patience=Patience(drain=0.1, settle=0.0, poll=0.01, answer=5.0, hold=0),
    )


def live(task: Task) -> None:
    """Work until the job has ended; leaves the moments passed and the job in ``<home>/outcome.json``."""
    fuse = Fuse(0 if task.passing else task.die_at)
    if task.passing:
        fuse = Trouble()
        fuse.arm(task.die_at, fail_passingly)
    refused = task.failover if task.refuse else ""
    over = (
        with_guests(task.home, fuse)
        if task.guests
        else context(task.home, fuse, refused=refused, way=task.way, everywhere=task.everywhere)
    )
    patience = dataclasses.replace(over.patience, stream=task.stream, hold=task.hold, silent_server=task.silent)
    over = dataclasses.replace(over, patience=patience)
    if task.endpoint:
        over = dataclasses.replace(over, endpoints=lambda _: {("dr.example", 443): ("127.0.0.1", task.endpoint)})
    if task.lost:
        lost = LostSite(task.home / "site", fuse, refused, task.way)
        lost.lost = task.lost
        over = dataclasses.replace(over, site=lambda _kind: lost)
    if task.declared:
        answers = over.site
        over = dataclasses.replace(over, site=lambda name: opened(over.catalog, name, lambda row: answers(row.id)))
    if task.vmware is not None:
        vmware = task.vmware
        over = dataclasses.replace(over, source_servers=lambda _name: sources_at(vmware))
    if task.vsphere is not None:
        over = with_vsphere(over, task.home, task.vsphere)
    engine = JobEngine(f"sqlite:///{task.home / 'jobs.sqlite'}", recovery_jobs(over))
    engine.launch()
    job = engine.start(task.kind, task.work or {"subject": str(MACHINE), "failover": task.failover}, JobId(task.job))
    until(lambda: engine.show(JobId(task.job)).state in ENDED, "the job's end", pause=0.01)
    job = engine.show(JobId(task.job))
    outcome = {"moments": fuse.passed, "job": job.model_dump(mode="json")}
    (task.home / "outcome.json").write_text(json.dumps(outcome))
    # The next server must cope with one that just vanished, and closing takes longer than the job.
    os._exit(0)


def with_vsphere(over: RecoveryContext, home: Path, settings: dict[str, Any]) -> RecoveryContext:
    """The same with a vSphere site ``dc1`` beside the others."""
    before = over.site
    known = VsphereSettings.model_validate(settings)

    def site(name: str) -> RecoverySite:
        return VsphereSite(home / "dc1", known, PASSWORD, name="dc1") if name == "dc1" else before(name)

    return dataclasses.replace(over, site=site)


class Trouble(Fuse):
    """Does something at the ``at``-th moment instead of killing, once it is armed."""

    def __init__(self) -> None:
        super().__init__(0)
        self.act: Callable[[], None] | None = None

    def arm(self, at: int, act: Callable[[], None]) -> None:
        self.passed, self.at, self.act = 0, at, act

    def moment(self) -> None:
        self.passed += 1
        act = self.act
        if act is not None and self.passed == self.at:
            self.act = None
            act()


def fail_passingly() -> None:
    raise TryLater("database is locked", remedy="Repeat the call.")


def concluded_at_last(task: Task, away: int) -> None:
    """``live``, with a catalog that is away at the first ``away`` conclusions, twice what a step is patient for."""
    calls, real = 0, recovery.conclude

    def conclude(*arguments: Any) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls <= away:
            fail_passingly()
        return real(*arguments)

    with patch.multiple(recovery, conclude=conclude, STUBBORN=Persistence(away // 2, 0.01)):
        live(task)


def one_after_another(home: Path, trouble: str, way: Way, guests: bool = False) -> None:
    """Failovers of one machine, each to replace the one before, with trouble at the next moment each time, until all
    moments have had theirs. Leaves in ``<home>/outcomes.json`` what became of each."""
    fuse = Trouble()
    over = with_guests(home, fuse) if guests else context(home, fuse, way=way)
    engine = JobEngine(f"sqlite:///{home / 'jobs.sqlite'}", recovery_jobs(over))
    engine.launch()
    outcomes: list[dict[str, object]] = []
    while True:
        failover, job = str(uuid.uuid4()), JobId(str(uuid.uuid4()))
        request(home, failover, job, "failover")
        fuse.arm(len(outcomes) + 1, fail_passingly if trouble == "error" else partial(_cancel, engine, job))
        engine.start("failover", {"subject": str(MACHINE), "failover": failover}, job)
        until(partial(_has_ended, engine, job), "the job's end", pause=0.01)
        site = QemuSite(home / "site") if guests else FileSite(home / "site", Fuse(0))
        running = [one for one in site.present() if site.status(one).condition is Condition.RUNNING]
        outcomes.append({
            "failover": failover,
            "job": engine.show(job).state.value,
            "standing": standing(home, failover),
            "running": running,
            "standing at its site": [one for one in running if stands(home, one, way, guests)],
        })  # fmt: skip
        if fuse.act is not None:
            break
    (home / "outcomes.json").write_text(json.dumps(outcomes))
    os._exit(0)


def every_other_job(home: Path, trouble: str) -> None:
    """A test and its clean-up; a failover that is stopped, started, committed and deleted: with trouble at the next
    moment of each job each time (in the gate every second one), until all have had theirs. Leaves what became of
    each."""
    fuse = Trouble()
    over = context(home, fuse)
    engine = JobEngine(f"sqlite:///{home / 'jobs.sqlite'}", recovery_jobs(over))
    engine.launch()
    outcomes: list[dict[str, object]] = []
    left, at = True, 1
    while left:
        left = False
        test, real = str(uuid.uuid4()), str(uuid.uuid4())
        request(home, test, test, "test")
        for kind, failover in [
            ("test-failover", test),
            ("cleanup", test),
            ("failover", real),
            *((kind, real) for kind in ("failover-stop", "failover-start", "commit", "failover-delete")),
        ]:
            job = JobId(failover if kind in ("test-failover", "failover") else new_id())
            refused: list[str] = []
            if kind == "failover":
                request(home, real, real, "failover")
            else:
                fuse.arm(at, fail_passingly if trouble == "error" else partial(_refused, engine, job, refused))
            engine.start(kind, {"subject": str(MACHINE), "failover": failover}, job)
            until(partial(_has_ended, engine, job), f"the end of the {kind} job", pause=0.01)
            had = kind != "failover" and fuse.act is None
            fuse.act = None
            left = left or had
            shown = engine.show(job)
            found = {"kind": kind, "at": at, "trouble": had, "job": shown.state.value, "error": shown.error}
            outcomes.append({**found, "refused": refused, "after": left_of(home, failover)})
        with over.catalog.writing() as tx:  # as if it had been protected again
            machine = machines.get(tx, MACHINE)
            machine.state, machine.protect = MachineState.PROTECTED.value, True
        at += 1 if SOAK else 2  # each step has a moment before what it does, and one after it
    (home / "outcomes.json").write_text(json.dumps(outcomes))
    os._exit(0)


def left_of(home: Path, failover: str) -> list[object]:
    """The state of a failover, the condition of its machine at the site, and whether its disks stand."""
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.reading() as tx:
        row = tx.get(FailoverRow, failover)
    catalog.close()
    condition = FileSite(home / "site", Fuse(0)).status(FailoverId(failover)).condition
    return [row.state if row is not None else "", condition.value, stands(home, failover, Way.SERVED)]


def _refused(engine: JobEngine, job: JobId, why: list[str]) -> None:
    """Cancel it; ``why`` gets the refusal, or "" where it was not refused."""
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(engine.cancel, job).result()
            why.append("")
        except WrongState as error:
            why.append(error.message)


def _cancel(engine: JobEngine, job: JobId) -> None:
    """In a thread of its own, as the API does it: a workflow's thread is no place to ask DBOS about workflows."""
    with ThreadPoolExecutor(1) as pool, contextlib.suppress(WrongState):  # it may have come up already
        pool.submit(engine.cancel, job).result()


def _has_ended(engine: JobEngine, job: JobId) -> bool:
    return engine.show(job).state in ENDED


def place(home: Path) -> tuple[str, str, str]:
    """The state of the machine, the site that runs it, and the hardware id of who owns its stream there."""
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.reading() as tx:
        machine = machines.get(tx, MACHINE)
        found = machine.state, machine.site, machine.owner
    catalog.close()
    return found


def stands(home: Path, failover: str, way: Way, guests: bool = False) -> bool:
    """Whether the disks of a failover are served, or are all there."""
    if guests:
        return ExportLauncher().serving(home / "failovers" / failover)
    return context(home, Fuse(0)).deliveries[way].stands(home / "failovers" / failover)


def standing(home: Path, failover: str) -> tuple[str, str]:
    """The states of a failover and of the machine."""
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.reading() as tx:
        states = failovers.get(tx, failover).state, machines.get(tx, MACHINE).state
    catalog.close()
    return states


class HeldSite(FileSite):
    """Starts ``held`` once it is let go."""

    def __init__(self, folder: Path, held: str) -> None:
        super().__init__(folder, Fuse(0))
        self.held, self.begun, self.let_go = held, threading.Event(), threading.Event()

    def start(self, failover: FailoverId) -> RecoveredMachine:
        if failover == self.held:
            self.begun.set()
            assert self.let_go.wait(PATIENCE)
        return super().start(failover)


def cancelled_in_its_second(home: Path, kind: str, job: JobId, work: dict[str, Any]) -> None:
    """A job of several failovers that is cancelled while the machine of its second one is being started."""
    second = str(work["members"][1]["failover"])
    site = HeldSite(home / "site", second)
    over = context(home, Fuse(0))
    engine = JobEngine(
        f"sqlite:///{home / 'jobs.sqlite'}", recovery_jobs(dataclasses.replace(over, site=lambda _id: site))
    )
    engine.launch()
    engine.start(kind, work, job)
    assert site.begun.wait(PATIENCE)
    engine.cancel(job)
    until(partial(_is_cancelled, over.catalog, second), "the mark of the second one", pause=0.01)
    site.let_go.set()
    until(partial(_has_ended, engine, job), "the job's end", pause=0.01)
    (home / "outcome.json").write_text(json.dumps({"job": engine.show(job).model_dump(mode="json")}))
    os._exit(0)


def _is_cancelled(catalog: Catalog, failover: str) -> bool:
    with catalog.reading() as tx:
        return failovers.get(tx, failover).cancelled
