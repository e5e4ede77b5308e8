"""Update a catalog from a backup by what happened since, according to the vault.

*Facts* (machines and where they run, epochs, failovers, certificates and revocations, users, process servers, host
keys, key grants) come from the vault's records if these are newer than the backup. *Choices* (policies, sites, alert
channels, push accounts, VMware servers) come from the backup, with what was added since. Names, not clocks, show which
record is newer; times are used only if the vault was unreachable when the backup was made. A damaged record is skipped:
then the backup's rows remain, and the report says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from farshore.catalog import alert_channels, machines, points, records, sites
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.records import AUDIT, KINDS
from farshore.configuration_server import backup_file
from farshore.configuration_server.rebuilding import RecordReport, Report, end, put, say, settle_failovers
from farshore.configuration_server.vault_contents import MachineContents
from farshore.model.errors import Damaged, NotFound
from farshore.vault.ownership import How
from farshore.vault.records import Record, read_record, record_names, whole
from farshore.vault.vault import Vault

_CHOICES = frozenset({"policies", "sites", "alert-channels", "push-accounts", "vmware-servers"})
"""Of a site, whether it is lost is a fact: with what was left there, it goes with the failovers."""


@dataclass
class Kept:
    """The records of a vault. ``newer``: the kinds that changed after the backup was made; ``troubles``: unreadable
    kinds, with the reason."""

    records: dict[str, Record] = field(default_factory=dict)
    newer: set[str] = field(default_factory=set)
    troubles: dict[str, str] = field(default_factory=dict)


def newest_records(vault: Vault, backup: backup_file.BackupContents) -> Kept:
    """Read the newest records. Raises the store's errors."""
    found = Kept()
    read: list[Record] = []
    for names in record_names(vault.store).values():
        try:
            read.append(read_record(vault.store, vault.installation_key, names[-1]))
        except (Damaged, NotFound) as error:  # a kind that lacks one of its parts is not used
            found.troubles[names[-1].kind] = error.message
    found.records = {
        one.name.kind: whole(one, read) for one in read if not one.name.parts and one.name.kind not in found.troubles
    }
    found.newer = {one.name.kind for one in read if one.name.kind in found.records and _is_newer(one, backup)}
    return found


def _is_newer(record: Record, backup: backup_file.BackupContents) -> bool:
    if backup.records is None:
        return record.written >= backup.time
    return [record.name.generation, record.name.version] > backup.records.get(record.name.series, [0, 0])


def reconcile(
    catalog: Catalog,
    backup: backup_file.BackupContents,
    kept: Kept,
    found: Sequence[MachineContents],
    now: int,
    *,
    jobs_lost: bool,
) -> Report:
    """Update a catalog that holds a backup's rows. ``jobs_lost``: failovers that were in progress no longer are, and
    machines on the host are gone. Raises the catalog's errors; then it is unchanged."""
    report = Report(How.RESTORED.value)

    def fill(tx: Transaction) -> None:
        report.records, report.machines, report.failovers = [], [], []
        facts = {kind: kept.records[kind] for kind in KINDS if kind in kept.newer and kind not in _CHOICES}
        _forget_what_is_gone(tx, facts)
        for kind in KINDS:
            _put(tx, kind, kept, facts.get(kind), backup, report)
        if jobs_lost:
            report.failovers = settle_failovers(tx, now)
        known = {machine.id for machine in machines.every(tx)}
        end(tx, found, known, report, now)
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(backup.time // 1_000_000_000))
        say(tx, kept.records.get(AUDIT), How.RESTORED, now, f"a backup of {moment} and the vault")

    catalog.write(fill)
    return report


def _forget_what_is_gone(tx: Transaction, facts: Mapping[str, Record]) -> None:
    """Delete rows of facts that the newer records no longer have, the positions of streams and servers, and every
    point: the vault says which exist."""
    points.forget_all(tx)
    servers = facts.get("process-servers")
    left = None if servers is None else {row["id"] for row in servers.rows}
    for machine in machines.every(tx):
        machine.moving_to, machine.run = "", ""
        if left is not None and machine.process_server not in left:
            machine.process_server = None
    for channel in alert_channels.every(tx):
        channel.claimed = 0
    tx.flush()
    for kind in reversed(list(KINDS)):
        if kind in facts:
            records.forget_others(tx, kind, facts[kind].rows)
    records.forget_others(tx, "epochs", records.read(tx, "epochs"))


def _follow_losses(tx: Transaction, later: Record) -> None:
    for known in sites.every(tx):
        for row in later.rows:
            if row["id"] == known.id:
                known.lost, known.left = row.get("lost", 0), row.get("left", [])


def _put(
    tx: Transaction, kind: str, kept: Kept, fact: Record | None, backup: backup_file.BackupContents, report: Report
) -> None:
    if fact is not None:
        put(tx, kind, fact, report)
        return
    later = kept.records[kind] if kind in kept.newer else None
    if later is not None:
        known = {records.key_of(kind, row) for row in records.read(tx, kind)}
        added = [row for row in later.rows if records.key_of(kind, row) not in known]
        put(tx, kind, replace(later, rows=added), Report(""))
        if kind == "sites":
            _follow_losses(tx, later)
    count = len(records.read(tx, kind))
    report.records.append(RecordReport(kind, count, backup.time, kept.troubles.get(kind, ""), backup=True))
