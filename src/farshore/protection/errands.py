"""What master targets do for failbacks, as transactions of the catalog.

A master target speaks for the errands that it was chosen for, and hears of no others; it is given the keys of the
machines of these alone. What it says of them: ``delegated``.
"""

from __future__ import annotations

from collections.abc import Sequence

from farshore.api_types.master_targets import (
    ErrandProgress,
    ErrandResult,
    MasterTargetOrders,
    MasterTargetReport,
    MasterTargetStanding,
)
from farshore.catalog import epochs, key_grants, machines, master_targets
from farshore.catalog.database import Transaction
from farshore.catalog.delegated import DelegatedState
from farshore.catalog.tables import ErrandRow, MasterTargetRow
from farshore.model.errors import Forbidden, NotFound, WrongState
from farshore.protection import delegated
from farshore.protection.assignment import SILENT_AFTER


def standing(row: MasterTargetRow, now: int) -> MasterTargetStanding:
    """Return the standing of an errand."""
    if row.revoked:
        return MasterTargetStanding.REVOKED
    if not row.registered:
        return MasterTargetStanding.INVITED
    return MasterTargetStanding.SILENT if now - row.last_seen > SILENT_AFTER else MasterTargetStanding.WELL


def report(tx: Transaction, row: MasterTargetRow, said: MasterTargetReport, now: int) -> MasterTargetOrders:
    """Note a master target's report; return its errands and which of its records are no longer needed."""
    row.last_seen, row.version, row.host = now, said.version, said.host
    return MasterTargetOrders(
        errands=master_targets.open_of(tx, row.id), forget=master_targets.not_needed(tx, said.holds)
    )


def ask(tx: Transaction, row: ErrandRow) -> ErrandRow:
    """Have a master target do something for a failback; the row of what is asked for already, where that is the same.
    Whatever else was asked for that failback is not wanted any more."""
    present = master_targets.errand_of(tx, row.failover)
    if present is not None:
        if _wanted(present) == _wanted(row):
            return present
        tx.delete(present)
        tx.flush()
    tx.add(row)
    tx.flush()
    return row


def _wanted(row: ErrandRow) -> tuple[str, str, str, Sequence[object]]:
    return row.master_target, row.errand, row.position or "", row.places


def begin(tx: Transaction, row: MasterTargetRow, errand: str, run: str) -> ErrandRow:
    """Begin or continue an errand for a master target. Raises NotFound if it has none like that, WrongState for one
    that has ended."""
    found = _of(tx, row, errand)
    if found is None:
        raise NotFound(f"There is no errand {errand} for this master target.", remedy="Nothing needs to be done.")
    if found.state == DelegatedState.ENDED.value:
        raise WrongState(f"The errand {errand} has ended.", remedy="Nothing needs to be done.")
    found.state, found.run, found.signs = DelegatedState.BEGUN.value, run, found.signs + 1
    return found


def note(tx: Transaction, row: MasterTargetRow, errand: str, progress: ErrandProgress) -> bool:
    """Note how far an errand is. Return whether it is still wanted."""
    return delegated.note(_of(tx, row, errand), progress)


def end(tx: Transaction, row: MasterTargetRow, errand: str, result: ErrandResult) -> bool:
    """Note what came of an errand. Return whether that was still wanted."""
    return delegated.end(_of(tx, row, errand), result)


def domains(tx: Transaction, row: MasterTargetRow, machine: str, now: int) -> list[int]:
    """Return the deduplication domains whose keys go with a machine's own, for a master target that writes its disks.
    That it was given them is noted. Raises NotFound, Forbidden if it has nothing to do for the machine."""
    machines.get(tx, machine)
    if not master_targets.has_errand_for(tx, row.id, machine):
        raise Forbidden(
            f"This master target has nothing to do for machine {machine}.",
            remedy="It is given keys while a failback has it write that machine's disks.",
        )
    found = {epoch.domain for epoch in epochs.history(tx, machine)}
    key_grants.note(tx, machine, row.id, found, now)
    return sorted(found)


def _of(tx: Transaction, row: MasterTargetRow, errand: str) -> ErrandRow | None:
    found = master_targets.errand(tx, errand)
    return found if found is not None and found.master_target == row.id else None
