"""Move machines from one process server to another: when their server dies, is drained, or the operator chose another.

From a living server a machine moves without copying: the server stops receiving its stream, stores what it has, and
reports that (``released``). Only then is the machine told to continue at the other server, in the same epoch, at the
very next record. A dead server's machines are moved at once. Data that it had acknowledged and not stored is missing
there. The new server sees in the vault where the stream ends, the agent sees that this is not where it was, and repeats
what it still has or resyncs by hash. If the dead server returns, it stores what its spool holds: a record has the same
bytes wherever it is, and an epoch that was left behind only gets longer.

``decide`` is pure. Relies on: one transaction for each decision, so that no two servers receive one stream.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from farshore.api_types.events import Severity
from farshore.api_types.servers import StreamName
from farshore.catalog import epochs, events, machines, process_servers
from farshore.catalog.database import Transaction
from farshore.catalog.machines import PlacedMachine
from farshore.catalog.tables import MachineRow, ProcessServerRow
from farshore.model.errors import Moved
from farshore.protection.assignment import preferred, takes_machines


@dataclass(frozen=True)
class Move:
    """``at_once``: without a hand-over. ``target`` None: the move in progress is cancelled."""

    machine: str
    target: str | None
    at_once: bool
    reason: str


def may_move(tx: Transaction, servers: Sequence[ProcessServerRow], dead: Collection[str]) -> bool:
    """Return whether ``decide`` can find anything. This is cheap, and False while machines are where they should be."""
    return machines.some_may_move(tx, sorted({one.id for one in servers if one.draining} | set(dead)))


def decide(
    all_machines: Sequence[MachineRow | PlacedMachine],
    servers: Sequence[ProcessServerRow],
    streaming: Collection[str],
    dead: Collection[str],
    now: int,
) -> list[Move]:
    """Return the moves to make now. ``streaming``: machines with an open epoch; ``dead``: servers given up."""
    by_id = {server.id: server for server in servers}
    counts = dict.fromkeys(by_id, 0)
    for machine in all_machines:
        counts[machine.moving_to or machine.process_server or ""] = (
            counts.get(machine.moving_to or machine.process_server or "", 0) + 1
        )
    found: list[Move] = []
    for machine in all_machines:
        here = by_id.get(machine.process_server or "")
        if here is None:
            continue
        reason = _reason(machine, here, by_id, dead, now)
        if not reason:
            if machine.moving_to:
                found.append(Move(machine.id, None, at_once=False, reason="it stays where it is"))
            continue
        others = [one for one in servers if one.id != here.id and one.id not in dead and takes_machines(one, now)]
        begun = next((one for one in others if one.id == machine.moving_to), None)
        target = begun if begun is not None and not machine.chosen_server else preferred(machine, others, counts)
        if target is None:
            if machine.moving_to:
                found.append(Move(machine.id, None, at_once=False, reason="no other process server is well"))
            continue
        at_once = here.id in dead or machine.id not in streaming
        if here.store_trouble and not at_once:
            continue  # a hand-over would stop the stream until the store works again; meanwhile the spool absorbs it
        if at_once or target.id != machine.moving_to:
            counts[target.id] = counts.get(target.id, 0) + 1
            found.append(Move(machine.id, target.id, at_once, reason))
    return found


def carry_out(tx: Transaction, move: Move, now: int) -> None:
    """Make the move, unless another transaction came first."""
    machine = machines.get(tx, move.machine)
    if move.target is None:
        machine.moving_to = ""
        _tell(tx, machine, "machine.stays", f"{machine.name} does not move: {move.reason}.", now)
        return
    target = process_servers.get(tx, move.target)
    if move.at_once:
        send_to(tx, machine, target, move.reason, now)
        return
    machine.moving_to = target.id
    _tell(tx, machine, "machine.moving", f"{machine.name} moves to process server {target.name}: {move.reason}.", now)


def check_assigned(tx: Transaction, machine: str, server: str) -> None:
    """Raise Moved if this process server is not the one that receives the machine's stream."""
    row = machines.get(tx, machine)
    if row.process_server != server or row.moving_to:
        raise Moved(
            f"{row.name} sends to another process server, or will soon.",
            remedy="The agent learns of it with its next heartbeat.",
            after=1,
        )


def send_to(tx: Transaction, machine: MachineRow, target: ProcessServerRow, reason: str, now: int) -> None:
    """Assign the machine's stream to this process server at once, without a hand-over."""
    machine.process_server, machine.moving_to, machine.stream_trouble = target.id, "", ""
    newest = epochs.newest(tx, machine.id)
    if newest is not None and not newest.closed:
        newest.served_before = sorted({*newest.served_before, newest.process_server} - {target.id})
        newest.process_server, newest.reported = target.id, 0  # the new one has said nothing of it yet
    message = f"{machine.name} sends to process server {target.name} now: {reason}."
    _tell(tx, machine, "machine.moved", message, now, Severity.WARNING if "report" in reason else Severity.INFORMATION)


def is_released(tx: Transaction, server: ProcessServerRow, stream: StreamName, now: int) -> None:
    """Let a machine continue at its new process server if the old one has released and stored its stream."""
    found = tx.get(MachineRow, stream.machine)
    if found is None or found.process_server != server.id or not found.moving_to or found.epoch != stream.epoch:
        return
    target = process_servers.get(tx, found.moving_to)
    send_to(tx, found, target, f"process server {server.name} has stored everything and hands it over", now)


def to_release(
    tx: Transaction,
    server: ProcessServerRow,
    named: Collection[tuple[str, int]],
    known: Mapping[str, MachineRow] = MappingProxyType({}),
) -> list[StreamName]:
    """Return the streams that a server must stop receiving: of those ``named``, the ones that go elsewhere or will go.
    ``known``: rows that this transaction holds, by id."""
    found = {(row.id, row.epoch) for row in machines.moving_from(tx, server.id)}
    for machine, epoch in named:
        row = known.get(machine) or tx.get(MachineRow, machine)
        if row is not None and row.epoch == epoch and row.process_server != server.id:
            found.add((machine, epoch))
    return [StreamName(machine=machine, epoch=epoch) for machine, epoch in sorted(found)]


def _reason(
    machine: MachineRow | PlacedMachine,
    here: ProcessServerRow,
    by_id: Mapping[str, ProcessServerRow],
    dead: Collection[str],
    now: int,
) -> str:
    if here.id in dead:
        return f"process server {here.name} does not report"
    if here.draining:
        return f"process server {here.name} is drained"
    chosen = by_id.get(machine.chosen_server)
    if chosen is not None and chosen.id != here.id and chosen.id not in dead and takes_machines(chosen, now):
        return f"process server {chosen.name} was chosen for it"
    return ""


def _tell(
    tx: Transaction, machine: MachineRow, kind: str, message: str, now: int, severity: Severity = Severity.INFORMATION
) -> None:
    subject = f"machine/{machine.id}"
    events.record(tx, time=now, kind=kind, actor="server", subject=subject, message=message, severity=severity)
