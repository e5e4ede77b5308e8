"""Rebuild a catalog from the records that the installation stored in its vault, and from the vault's own contents.

In: an empty catalog of this release's schema. Out: one transaction with everything, or nothing; and a report that says
how old each part is. If records and vault differ about epochs and points, the vault is right: its contents can be
recovered.

The former process server's spools, jobs and waiting commands are unknown. So no stream continues: every epoch is
closed, and an agent that connects resyncs by hash into a new one.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from farshore.api_types.machines import Description
from farshore.catalog import (
    audit,
    epochs,
    events,
    failovers,
    machines,
    points,
    policies,
    process_servers,
    records,
    sites,
)
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.records import AUDIT, KINDS
from farshore.catalog.tables import EpochRow, MachineRow, PolicyRow
from farshore.configuration_server.vault_contents import MachineContents
from farshore.model.identifiers import MachineId
from farshore.model.policy import ReplicationPolicy
from farshore.model.states import PRESENT, UNDER_WAY, FailoverState, MachineState
from farshore.protection import master_target_enrolment
from farshore.protection.tending import point_row, thinned
from farshore.recovery.standing import give_machine_back
from farshore.vault.ownership import How
from farshore.vault.records import Record, Row

SECOND = 1_000_000_000
TAKEN_OVER = "its installation was taken over, or its catalog made anew"
_ON_THE_SERVER = frozenset({"qemu"})
"""Kinds of sites that run machines on the configuration server's own host: lost with it."""
_BECOMING = frozenset({MachineState.ENROLLED.value, MachineState.INITIAL_REPLICATION.value})


@dataclass
class RecordReport:
    """A kind of record: how many rows there were, and when the former installation last changed it (ns); 0: the vault
    has none."""

    kind: str
    count: int
    written: int
    trouble: str = ""
    backup: bool = False
    """The rows are those of the backup."""


@dataclass
class MachineReport:
    """``newest`` (ns) is the time of its newest state in the vault, 0 for none. ``known``: by the installation's
    records; otherwise by the vault alone, and then it has the default policy."""

    id: str
    name: str
    state: str
    policy: str
    known: bool
    newest: int
    points: int
    trouble: str = ""


@dataclass
class Report:
    """What a new catalog contains, and how recent it is."""

    how: str
    records: list[RecordReport] = field(default_factory=list)
    machines: list[MachineReport] = field(default_factory=list)
    failovers: list[str] = field(default_factory=list)
    """What happened to failovers that were in progress or running, in words."""

    def as_json(self) -> dict[str, Any]:
        """Return it for a file, and for the program that shows it."""
        return asdict(self)


def highest_epoch(kept: Mapping[str, Record]) -> int:
    """Return the highest number of an epoch in the records."""
    return max((int(row["epoch"]) for kind in ("machines", "epochs") for row in _rows(kept, kind)), default=0)


def rebuild(
    catalog: Catalog, kept: Mapping[str, Record], found: Sequence[MachineContents], how: How, now: int
) -> Report:
    """Fill an empty catalog. Raises the catalog's errors; then it remains empty."""
    report = Report(how.value)

    def fill(tx: Transaction) -> None:
        report.records, report.machines, report.failovers = [], [], []
        policies.ensure_default(tx)
        for kind in KINDS:
            put(tx, kind, kept.get(kind), report)
        policies.ensure_failbacks(tx)
        if how is How.ADOPTED:
            _forget_former_servers(tx, now)
            report.failovers = settle_failovers(tx, now)
        known = {str(row["id"]) for row in _rows(kept, "machines")}
        end(tx, found, known, report, now)
        say(tx, kept.get(AUDIT), how, now)

    catalog.write(fill)
    return report


def end(tx: Transaction, found: Sequence[MachineContents], known: Container[str], report: Report, now: int) -> None:
    """Add what the vault holds of each machine, and close every epoch. ``known``: ids of machines that were known
    before the vault was read."""
    for one in found:
        _from_vault(tx, one, now)
    for machine in machines.every(tx):
        epochs.close_open(tx, MachineId(machine.id), now, TAKEN_OVER)
    by_id: dict[str, MachineContents] = {one.machine: one for one in found}
    report.machines = [_of_machine(row, by_id.get(row.id), row.id in known) for row in machines.every(tx)]


def _rows(kept: Mapping[str, Record], kind: str) -> Sequence[Row]:
    record = kept.get(kind)
    return [] if record is None else record.rows


def put(tx: Transaction, kind: str, record: Record | None, report: Report) -> None:
    """Insert rows of one kind; a row that refers to a missing one is omitted, or its reference is cleared."""
    rows = [dict(row) for row in record.rows] if record is not None else []
    present = {row.id for row in machines.every(tx)}
    if kind == "machines":
        known, servers = {row.name for row in policies.every(tx)}, _servers(tx)
        for row in rows:
            row["policy"] = row["policy"] if row["policy"] in known else ReplicationPolicy().name
            row["process_server"] = row["process_server"] if row["process_server"] in servers else None
            row["moving_to"], row["run"] = "", ""
    elif kind in ("epochs", "failovers"):
        rows = [row for row in rows if row["machine"] in present]
    count = records.put(tx, kind, rows)
    report.records.append(RecordReport(kind, count, 0 if record is None else record.written))


def _servers(tx: Transaction) -> set[str]:
    return {row.id for row in process_servers.every(tx)}


def _forget_former_servers(tx: Transaction, now: int) -> None:
    """Delete the process server and the master target that ran beside the former configuration server: they were a part
    of it."""
    for server in process_servers.every(tx):
        if server.registered and not server.host_names:
            for machine in machines.sending_to(tx, server.id):
                machine.process_server = None
            tx.flush()
            process_servers.delete(tx, server)
    master_target_enrolment.leave_out(tx, now)
    left = _servers(tx)
    for machine in machines.every(tx):
        machine.chosen_server = machine.chosen_server if machine.chosen_server in left else ""


def settle_failovers(tx: Transaction, now: int) -> list[str]:
    """Settle the failovers of a lost installation: its jobs are gone, and so are the machines on its own host."""
    told = []
    kinds = {row.id: row.kind for row in sites.every(tx)}
    for row in failovers.in_states(tx, PRESENT):
        machine, state = tx.get_one(MachineRow, row.machine), FailoverState(row.state)
        if state in UNDER_WAY:
            row.state, row.ended = FailoverState.FAILED.value, now
            row.message = "The installation that did it was lost."
            give_machine_back(row, machine)
            told.append(
                f"{row.kind} of {machine.name} at {row.site}, which was in progress, has failed. Request it again."
            )
        elif kinds.get(row.site, "qemu") in _ON_THE_SERVER and not failovers.has_come_home(row):
            row.state, row.ended, row.stopped = FailoverState.CLEANED_UP.value, now, True
            row.message = "It ran on the host of the installation, which was lost."
            told.append(
                f"{row.kind} of {machine.name} at {row.site} ran on the former installation's host, and counts as lost "
                "with it. What it wrote since it was brought up is in the vault only as far as it was replicated."
            )
            if machine.site == row.site:
                machine.site, machine.owner = "", ""
    for machine in machines.every(tx):
        if not machine.site and MachineState(machine.state) in (
            MachineState.FAILING_OVER,
            MachineState.FAILED_OVER,
            MachineState.COMMITTED,
        ):
            machine.state = MachineState.RESYNC.value  # it can be failed over again at once
    return told


def _from_vault(tx: Transaction, found: MachineContents, now: int) -> None:
    machine = tx.get(MachineRow, found.machine)
    if machine is None:
        if found.description is None:
            return  # nothing of it can be opened; the report of the vault's own commands lists it
        machine = _unknown_machine(tx, found, now)
    if found.stretches and machine.state in _BECOMING:
        machine.state = MachineState.RESYNC.value
    for stretch in found.stretches:
        record = stretch.record
        row = tx.get(EpochRow, (machine.id, record.epoch))
        if row is None:
            row = EpochRow(
                machine=machine.id,
                epoch=record.epoch,
                kind=record.kind,
                run="",
                process_server="",
                parent_epoch=record.parent.epoch if record.parent else 0,
                parent_sequence=record.parent.sequence if record.parent else 0,
                description={},
                granted=record.time,
                domain=record.domain,
                domain_name=stretch.domain_name,
            )
            tx.add(row)
        row.consistent, row.consistent_from, row.consistent_time = True, record.consistent_from, record.time
        row.received = row.stored = row.written = stretch.stored
        row.stored_time = stretch.time
    tx.flush()
    for row in epochs.history(tx, machine.id):
        row.description = row.description or machine.description
    machine.epoch = max(machine.epoch, *(row.epoch for row in epochs.history(tx, machine.id)), 0)
    newest = found.newest
    machine.newest_point_time = 0 if newest is None else min(newest.time, now)
    every = tx.get_one(PolicyRow, machine.policy).crash_consistent_every
    kept = thinned(found.points, every * SECOND, found.pinned)
    points.record_all(tx, [point_row(machine.id, one) for one in kept])
    points.mark_pinned(tx, machine.id, found.pinned)


def _unknown_machine(tx: Transaction, found: MachineContents, now: int) -> MachineRow:
    """Return a row for a machine that only the vault knows."""
    assert found.description is not None
    taken, name = {row.name for row in machines.every(tx)}, found.description.hostname or found.machine
    fields = Description.model_validate({**asdict(found.description), "firmware": found.description.firmware})
    row = MachineRow(
        id=found.machine,
        name=name if name not in taken else f"{name}-{found.machine[:8]}",
        state=MachineState.RESYNC.value if found.stretches else MachineState.INITIAL_REPLICATION.value,
        enrolled=now,
        policy=ReplicationPolicy().name,
        description=fields.model_dump(mode="json"),
        hardware_id=found.description.hardware_id,
        protect=True,
        epoch=0,
    )
    machines.add(tx, row)
    return row


def say(tx: Transaction, head: Record | None, how: How, now: int, of: str = "") -> None:
    """Record in the audit log and in the events how this catalog was made. ``of``: its source besides the vault."""
    last = head.rows[0] if head is not None and head.rows else {}
    message = f"The catalog was made from {of or 'the vault'} ({how.value})."
    if last:
        message += f" The audit log before it ended with entry {last['id']}, digest {last['digest']}."
    audit.append(
        tx,
        time=now,
        kind=f"installation.{how.value}",
        actor="server/setup",
        subject="installation",
        message=message,
        detail={"former_head": last},
    )
    events.record(
        tx, time=now, kind=f"installation.{how.value}", actor="server/setup", subject="installation", message=message
    )


def _of_machine(row: MachineRow, found: MachineContents | None, known: bool) -> MachineReport:
    return MachineReport(
        id=row.id,
        name=row.name,
        state=row.state,
        policy=row.policy,
        known=known,
        newest=row.newest_point_time,
        points=0 if found is None else len(found.points),
        trouble="The vault holds nothing of it." if found is None else found.trouble,
    )
