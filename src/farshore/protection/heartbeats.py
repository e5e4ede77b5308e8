"""Process the agents' heartbeats: observed state in, desired state out. (One-time requests are commands, see
commands.py.)

The agent itself closes the gap between the two; nothing here waits for it.
"""

from __future__ import annotations

from farshore.api_types.bandwidth import Rate
from farshore.api_types.events import Severity
from farshore.api_types.machines import MOST_FINDINGS, MOST_WARNINGS, Desired, Heartbeat, ProofStanding
from farshore.catalog import epochs, events, machines, policies
from farshore.catalog.change_details import changed
from farshore.catalog.database import Transaction
from farshore.catalog.tables import MachineRow
from farshore.model.bandwidth import rates
from farshore.model.states import MachineState
from farshore.protection import clocks
from farshore.protection.commands import may_obey
from farshore.protection.former_agents import former_commands, note_results
from farshore.protection.granting import ELSEWHERE, policy_rpo
from farshore.protection.watch import CLOCK_SECONDS, SECOND, disk_names

BECOMING = frozenset({MachineState.INITIAL_REPLICATION.value, MachineState.RESYNC.value})
"""States that end with a complete epoch."""
EVERY = 10.0
"""Seconds between two heartbeats of a protected machine. For all others an operation is in progress that somebody
follows: they report as often as Desired says by default."""


def observe(tx: Transaction, machine: MachineRow, heartbeat: Heartbeat, now: int, every: float = EVERY) -> Desired:
    """Record an agent's report and return the desired state.

    If another run of the agent, or another site, has replaced this one, the answer is to stand by, and nothing is
    recorded. The same applies to a run without an epoch, of a machine that a recovery site runs."""
    if heartbeat.epoch and heartbeat.run != machine.run:
        return Desired(protect=False, standby=True)
    if machine.site and heartbeat.run != machine.run:
        # The old source, which has restarted, or the recovered machine, which asks for the stream next: granting
        # decides.
        return desired(tx, machine, now)
    note_results(tx, machine.id, heartbeat.results, now)
    _note_mode(tx, machine, heartbeat, now)
    _note_commands(tx, machine, heartbeat, now)
    _note_proof(tx, machine, heartbeat, now)
    clocks.note_machine(tx, machine, heartbeat.clock, heartbeat.run, now)
    if machine.clock_stepped and now - machine.clock_stepped >= CLOCK_SECONDS * SECOND:
        machine.clock_stepped = 0  # no alert needs it any longer, so the watch need not read it
    seen = heartbeat.model_dump(mode="json", exclude={"results"})
    seen["warnings"] = seen["warnings"][:MOST_WARNINGS]
    if heartbeat.findings is None:
        seen["findings"] = machine.heartbeat.get("findings")
    else:
        seen["findings"] = seen["findings"][:MOST_FINDINGS]
    machine.heartbeat = seen
    machine.last_seen = now
    wanted = desired(tx, machine, now)
    if machine.state == MachineState.PROTECTED.value:
        wanted = wanted.model_copy(update={"heartbeat_every": every})
    if heartbeat.hears_commands or not may_obey(machine):
        return wanted
    return wanted.model_copy(update={"commands": former_commands(tx, machine.id, proves=heartbeat.proof is not None)})


def desired(tx: Transaction, machine: MachineRow, now: int) -> Desired:
    """Return what a machine's agent should be doing."""
    state = MachineState(machine.state)
    if state in ELSEWHERE or (state is MachineState.UNPROTECTED and machine.site):  # in the latter case it was migrated
        return Desired(protect=False, standby=True)
    if not machine.protect or state is MachineState.UNPROTECTED:
        return Desired(protect=False)
    policy = policies.get(tx, machine.policy)
    return Desired(
        protect=True,
        crash_consistent_every=policy.crash_consistent_every,
        app_consistent_every=policy.app_consistent_every,
        asked_rpo=policy_rpo(tx, machine),
        exclude_disks=machine.exclude_disks,
        bandwidth_limit=machine.bandwidth_limit,
        cpu_share=machine.cpu_percent / 100,
        memory_limit=machine.memory_limit,
        proof_pace=machine.proof_pace,
        bandwidth=[Rate(since=since, limit=limit) for since, limit in rates(policy.bandwidth, policy.time_zone, now)],
    )


def _note_proof(tx: Transaction, machine: MachineRow, heartbeat: Heartbeat, now: int) -> None:
    """Update the state of a machine whose copy differs: it is not protected until the difference is healed and
    proven."""
    if heartbeat.proof is not None:
        _note_unjudged(tx, machine, heartbeat.proof, now)
    if heartbeat.epoch != machine.epoch or not heartbeat.epoch:
        return
    differing = heartbeat.proof.differing if heartbeat.proof is not None else 0
    if differing and machine.state == MachineState.PROTECTED.value:
        machines.set_state(machine, MachineState.RESYNC)
        what, kind, severity = (
            f"{differing} chunks of its copy differ from its disks",
            "machine.differs",
            Severity.ERROR,
        )
    elif not differing and machine.state in BECOMING:
        epoch = epochs.get(tx, machine.id, machine.epoch)
        if epoch.closed or not epoch.consistent:
            return
        # A difference may have delayed the report that the epoch is complete: see reports.
        machines.set_state(machine, MachineState.PROTECTED)
        what = "its copy is proven equal again" if copy_differs(machine) else "nothing of its copy is known to differ"
        kind, severity = "machine.protected", Severity.INFORMATION
    else:
        return
    events.record(
        tx,
        time=now,
        kind=kind,
        actor=f"machine/{machine.id}",
        subject=f"machine/{machine.id}",
        severity=severity,
        message=f"{machine.name}: {what}.",
    )


def _note_unjudged(tx: Transaction, machine: MachineRow, proof: ProofStanding, now: int) -> None:
    """Record differences whose cause can no longer be found, without an alert."""
    before = machine.heartbeat.get("proof")
    more = proof.unjudged - (before.get("unjudged", 0) if before else proof.unjudged)
    if more <= 0:
        return
    events.record_some(
        tx,
        time=now,
        kind="copy.unjudged",
        actor=f"machine/{machine.id}",
        subject=f"machine/{machine.id}",
        severity=Severity.WARNING,
        message=f"{machine.name}: {more} chunks of its copy differed when an epoch ended; they are equal now. The "
        "cause was a write in flight, or a fault that older points then contain.",
    )


def copy_differs(machine: MachineRow) -> bool:
    """Return whether the machine's last report has chunks that differ and are not proven equal again."""
    return bool((machine.heartbeat.get("proof") or {}).get("differing"))


def _note_commands(tx: Transaction, machine: MachineRow, heartbeat: Heartbeat, now: int) -> None:
    """Report commands that programs sent straight to a disk: each cost a comparison of the whole disk."""
    before = {one["disk"]: one.get("commands", 0) for one in machine.heartbeat.get("accounts", [])}
    for account in heartbeat.accounts:
        if not account.commands:
            continue
        known = before.get(account.disk, 0)
        disk = disk_names(machine, [account.disk])[0]
        # Fewer than before: the capture has restarted since.
        more = account.commands - known if account.commands >= known else account.commands
        if not more:
            continue
        events.record_some(
            tx,
            time=now,
            kind="capture.commands",
            actor=f"machine/{machine.id}",
            subject=f"machine/{machine.id}",
            severity=Severity.WARNING,
            message=f"{machine.name}: {more} commands were sent straight to disk {disk} "
            "(SG_IO, NVMe passthrough, io_uring). They may have changed it anywhere, so all of it is compared, and "
            "there are no points until then. End what sends them; or exclude the disk: farshore machine protect "
            f"{machine.name} --exclude-disk {account.disk}",
        )


def _note_mode(tx: Transaction, machine: MachineRow, heartbeat: Heartbeat, now: int) -> None:
    before = machine.heartbeat.get("mode")
    after = heartbeat.mode.value if heartbeat.mode is not None else None
    if before == after or after is None:
        return
    degraded = after != "data"
    events.record_some(
        tx,
        time=now,
        kind="capture.mode",
        actor=f"machine/{machine.id}",
        subject=f"machine/{machine.id}",
        severity=Severity.WARNING if degraded else Severity.INFORMATION,
        message=f"Capture of {machine.name} is in {after} mode"
        + (f": {heartbeat.mode_cause}." if heartbeat.mode_cause else "."),
        detail=changed({"mode": before}, {"mode": after}),
    )
