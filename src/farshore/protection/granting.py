"""Decide who may send a machine's stream: open epochs and fence earlier ones.

One write transaction decides; see farshore.catalog.epochs. The kind that an agent asks for is only a wish. An epoch may
only build on one whose state is known to be complete, so a HEAL may become a RESYNC, and a RESYNC an INITIAL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from farshore.api_types.machines import EpochKind, EpochRequest
from farshore.catalog import commands, epochs, events, installation, machines, policies
from farshore.catalog.database import Transaction
from farshore.catalog.tables import EpochRow, MachineRow, PolicyRow, ProcessServerRow
from farshore.model.errors import Fenced, TryLater, WrongState
from farshore.model.identifiers import Epoch, MachineId, Sequence
from farshore.model.policy import asked_rpo, deduplication_domain
from farshore.model.position import Position
from farshore.model.states import MachineState
from farshore.protection.enrolment import check_description

ELSEWHERE = frozenset({MachineState.FAILING_OVER, MachineState.FAILED_OVER, MachineState.COMMITTED})
"""States in which another site runs the machine, or will soon."""

SUCCEEDED = "a new epoch was granted"
"""Why an epoch was closed whose own agent opened the next one."""


class Domain(NamedTuple):
    """A deduplication domain: its name (see farshore.model.policy), and its number in the vault."""

    name: str = ""
    number: int = 0


INSTALLATION = Domain()


@dataclass(frozen=True)
class Basis:
    """The kind of an epoch, and its parent; ``parent`` None: it has none. ``exact``: even if the parent has more after
    that position."""

    kind: EpochKind
    parent: Position | None
    exact: bool = False


def domain_name(tx: Transaction, machine: MachineRow) -> str:
    """Return the deduplication domain of a machine's next epoch, by its policy."""
    return deduplication_domain(policies.get(tx, machine.policy).deduplication, machine.id)


def grant(
    tx: Transaction,
    machine: MachineRow,
    request: EpochRequest,
    server: ProcessServerRow,
    now: int,
    domain: Domain = INSTALLATION,
) -> EpochRow:
    """Open the next epoch for this run of the agent, and fence the holder of the one before. ``domain`` must be the
    policy's; TryLater means that the policy has changed.

    Raises Fenced if another site runs this machine or the request comes from other hardware, WrongState if the machine
    should not be protected, Malformed for an impossible description."""
    _check_allowed(machine, request)
    check_description(request.description)
    if domain.name != domain_name(tx, machine):
        raise TryLater(f"The policy of {machine.name} is being changed.", remedy="Repeat the request.", after=1)
    basis = choose_basis(tx, machine, request, domain)
    epochs.close_open(tx, MachineId(machine.id), now, SUCCEEDED)
    number = max(machine.epoch, installation.epochs_from(tx)) + 1
    description = request.description.model_dump(mode="json")
    row = EpochRow(
        machine=machine.id,
        epoch=number,
        kind=basis.kind.value,
        run=request.run,
        process_server=server.id,
        parent_epoch=basis.parent.epoch if basis.parent else 0,
        parent_sequence=basis.parent.sequence if basis.parent else 0,
        exact=basis.exact,
        description=description,
        granted=now,
        domain=domain.number,
        domain_name=domain.name,
    )
    epochs.add(tx, row)
    machine.epoch, machine.run, machine.process_server = number, request.run, server.id
    machine.description = description
    if not machine.site:
        machine.hardware_id = machine.hardware_id or request.description.hardware_id
    before = MachineState(machine.state)
    first = before in (MachineState.ENROLLED, MachineState.INITIAL_REPLICATION)
    machines.set_state(machine, MachineState.INITIAL_REPLICATION if first else MachineState.RESYNC)
    events.record_some(
        tx,
        time=now,
        kind="epoch.granted",
        actor=f"machine/{machine.id}",
        subject=f"machine/{machine.id}",
        message=f"Epoch {number} of {machine.name} begins ({basis.kind.value}).",
        detail={"epoch": number, "kind": basis.kind.value, "asked": request.kind.value, "run": request.run},
    )
    return row


def choose_basis(tx: Transaction, machine: MachineRow, request: EpochRequest, domain: Domain = INSTALLATION) -> Basis:
    """Return what the new epoch may build on: never an epoch of another deduplication domain, whose chunks it would
    share.

    After a failover this is the position that was chosen for it, until an epoch of the new line is consistent."""
    whole = epochs.newest_consistent(tx, machine.id)
    if whole is not None and machine.line_epoch and whole.epoch <= machine.line_after:
        return _beginning_of_line(tx, machine, request, domain)
    if request.kind is EpochKind.INITIAL or whole is None or whole.domain != domain.number:
        return Basis(EpochKind.INITIAL, None)
    if request.kind is EpochKind.HEAL and _may_heal(tx, machine, whole, request):
        # Everything up to here is durable at the process server, and the bitmap holds everything after it.
        return Basis(EpochKind.HEAL, _position(whole.epoch, request.parent_sequence))
    return Basis(EpochKind.RESYNC, _position(whole.epoch, max(whole.stored, whole.consistent_from)))


def _beginning_of_line(tx: Transaction, machine: MachineRow, request: EpochRequest, domain: Domain) -> Basis:
    begun = tx.get(EpochRow, (machine.id, machine.line_epoch))
    if request.kind is EpochKind.INITIAL or begun is None or begun.domain != domain.number:
        return Basis(EpochKind.INITIAL, None)
    return Basis(EpochKind.RESYNC, _position(machine.line_epoch, machine.line_sequence), exact=True)


def fence(tx: Transaction, machine: MachineRow, now: int, reason: str) -> None:
    """Fence a machine: nobody may send its stream until another epoch is granted."""
    epochs.close_open(tx, MachineId(machine.id), now, reason)
    commands.abandon(tx, MachineId(machine.id), now, reason)


def check_open(row: EpochRow) -> None:
    """Raise Fenced for a closed epoch."""
    if row.closed:
        raise Fenced(
            f"Epoch {row.epoch} of machine {row.machine} is closed: {row.close_reason}.",
            remedy="The agent asks the configuration server automatically.",
        )


def may_go_on(tx: Transaction, machine: MachineRow, epoch: EpochRow, hardware: str) -> bool:
    """Return whether a process server may still accept an epoch's stream: the result of `check_stream`, without the
    reason. ``hardware``: the id of the epoch's sender."""
    try:
        _check_stream(tx, machine, epoch, hardware)
    except Fenced:
        return False
    return True


def check_stream(tx: Transaction, machine: MachineRow, epoch: EpochRow) -> None:
    """Raise Fenced if an epoch is closed, if its sender does not own the machine's stream, or if its copy is incomplete
    and would share chunks with other machines than the policy allows."""
    _check_stream(tx, machine, epoch, epochs.hardware_of(epoch))


def _check_stream(tx: Transaction, machine: MachineRow, epoch: EpochRow, hardware: str) -> None:
    check_open(epoch)
    check_owner(machine, hardware)
    if not epoch.consistent and epoch.domain_name != domain_name(tx, machine):
        raise Fenced(
            f"Machine {machine.id} has another deduplication domain than when its epoch {epoch.epoch} began.",
            remedy="The agent requests a new epoch automatically.",
        )


def policy_rpo(tx: Transaction, machine: MachineRow) -> float:
    """Return the maximum age of a machine's newest stored state that its policy asks for, in seconds."""
    return rpo_of(policies.get(tx, machine.policy))


def rpo_of(policy: PolicyRow) -> float:
    """Return the same for all machines of a policy."""
    return asked_rpo(policy.crash_consistent_every, policy.rpo_threshold)


def check_owner(machine: MachineRow, hardware_id: str) -> None:
    """Raise Fenced unless the instance with this hardware id ("": it has none) owns the machine's stream.

    If a recovery site runs the machine, only that instance owns it, and nobody if its id is unknown: the old source may
    start at any time, with the same disks and the same certificate."""
    if machine.site:
        if not machine.owner or hardware_id != machine.owner:
            raise Fenced(
                f"{machine.name} runs at {machine.site} on {machine.owner or 'unknown hardware'}, but "
                f"this agent runs on other hardware ({hardware_id or 'without an id'}).",
                remedy="This copy of the machine must not be used: shut it down, or keep users away from it.",
            )
    elif hardware_id and machine.hardware_id and hardware_id != machine.hardware_id:
        raise Fenced(
            f"This agent has the certificate of {machine.name}, but runs on other hardware ({hardware_id}).",
            remedy="If the machine was moved on purpose, enrol it again with a token made for it: "
            f"farshore token create --machine {machine.name}",
        )


def _check_allowed(machine: MachineRow, request: EpochRequest) -> None:
    state, theirs = MachineState(machine.state), request.description.hardware_id
    if state in ELSEWHERE and machine.site and theirs == machine.owner:
        raise Fenced(
            f"{machine.name} is {state.value}and runs here, so it is not replicated from {machine.site}.",
            remedy="Nothing needs to be done: its agent stands by.",
        )
    if state in ELSEWHERE:
        where = machine.site or "another site"
        raise Fenced(
            f"{machine.name} is {state.value}: it runs at {where}, or will in a moment.",
            remedy="This copy of the machine must not be used: shut it down, or keep users away from it.",
        )
    if state is MachineState.UNPROTECTED or not machine.protect:
        raise WrongState(
            f"{machine.name} is not protected.", remedy=f"Protect it: farshore machine protect {machine.name}"
        )
    check_owner(machine, theirs)


def _may_heal(tx: Transaction, machine: MachineRow, whole: EpochRow, request: EpochRequest) -> bool:
    """Return whether the agent's bitmap still contains all changes since ``parent``: the same run has captured without
    a break, through ``whole`` and any unfinished heals of it. Disks may have been added, removed or resized: the
    process server does not report the epoch as complete before their new parts are copied."""
    if whole.epoch != request.parent_epoch or request.parent_sequence < whole.consistent_from:
        return False
    since = [row for row in epochs.history(tx, machine.id) if row.epoch > whole.epoch]
    heals = all(row.kind == EpochKind.HEAL.value and row.parent_epoch == whole.epoch for row in since)
    unbroken = all(row.run == request.run and row.close_reason in ("", SUCCEEDED) for row in (whole, *since))
    return heals and unbroken


def _position(epoch: int, sequence: int) -> Position:
    return Position(Epoch(epoch), Sequence(sequence))
