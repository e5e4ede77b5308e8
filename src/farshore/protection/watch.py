"""Watch for problems: missed RPOs, silent programs, and problems that programs report.

``conditions`` is pure; ``reconcile`` updates the open alerts. An alert is raised once and cleared once, each with its
event, however often the watch looks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from farshore.api_types.events import Severity
from farshore.api_types.master_targets import MasterTargetStanding
from farshore.catalog import events
from farshore.catalog.database import Transaction
from farshore.catalog.machines import WatchedMachine
from farshore.catalog.tables import AlertRow, DifferenceRow, MachineRow, MasterTargetRow, PolicyRow, ProcessServerRow
from farshore.model.states import MachineState
from farshore.protection import errands
from farshore.protection.assignment import SILENT_AFTER

log = logging.getLogger(__name__)

SECOND = 1_000_000_000
AGENT_SILENT_AFTER = 30 * SECOND
SPOOL_FILLING = 0.8
CLOCK_SECONDS = 3600
"""How long an alert reports that a clock was set."""
OVERSTEPPED_FOR = 900 * SECOND
"""How long a report about another server's machine remains an alert."""
DAMAGE, DAMAGE_OLDER = "vault-damage", "vault-damage-older"
"""Kinds of the conditions that the scrub finds (see scrubbing)."""
DIFFERS = "copy-differs"
WATCHED = frozenset({MachineState.PROTECTED.value, MachineState.RESYNC.value})
LIVE = WATCHED | {MachineState.INITIAL_REPLICATION.value}
_HEALS = "It heals automatically. If it recurs, the machine writes faster than it can send."
_COMMANDED = (
    "All of the disk is compared, then there are points again. See which disk: farshore event list; end what sends "
    "commands straight to it, or exclude it: farshore machine protect NAME --exclude-disk NUMBER"
)
_DEGRADED_REMEDIES = {"command to driver": _COMMANDED}
"""By the cause that the agent reports."""


Newest = Callable[[str], DifferenceRow | None]


@dataclass(frozen=True)
class AlertCondition:
    """Something that needs attention. ``kind`` and ``subject`` identify it."""

    kind: str
    subject: str
    severity: Severity
    message: str
    remedy: str


def rpo_seconds(newest_point_time: int, now: int) -> float | None:
    """Return the age of the newest durable state in seconds, both times by our clock; None while there is none.

    A negative age, between a step of our clock and the watch's next look (see clocks), is returned as 0."""
    return max(0.0, (now - newest_point_time) / SECOND) if newest_point_time else None


def conditions(
    machines: Iterable[MachineRow | WatchedMachine],
    policies: Sequence[PolicyRow],
    servers: Iterable[ProcessServerRow],
    now: int,
    newest: Newest = lambda _machine: None,
    targets: Iterable[MasterTargetRow] = (),
) -> list[AlertCondition]:
    """Return all problems. ``newest``: the chunk that was found to differ last, by machine; ``targets``: the master
    targets."""
    by_name = {policy.name: policy for policy in policies}
    found: list[AlertCondition] = []
    for machine in machines:
        look = partial(_of_machine, machine, by_name[machine.policy], now, newest)
        found.extend(_survived(f"machine/{machine.id}", look))
    for server in servers:
        found.extend(_survived(f"process-server/{server.id}", partial(_of_server, server, now)))
    for target in targets:
        found.extend(_survived(f"master-target/{target.id}", partial(_of_master_target, target, now)))
    return found


def _survived(subject: str, look: Callable[[], Iterable[AlertCondition]]) -> list[AlertCondition]:
    """Return what one check finds. If it fails because of one machine's data, the other machines are watched all the
    same."""
    try:
        return list(look())
    except Exception as error:
        log.exception("The watch failed over %s", subject)
        what = f"The watch cannot judge {subject} ({type(error).__name__}): its problems are not shown."
        return [
            AlertCondition("watch-failing", subject, Severity.ERROR, what, "See the server's log, and report this.")
        ]


def reconcile(tx: Transaction, present: Sequence[AlertCondition], now: int) -> None:
    """Raise what is new, clear what has passed."""
    wanted = {(condition.kind, condition.subject): condition for condition in present}
    for alert in events.open_alerts(tx):
        condition = wanted.pop((alert.kind, alert.subject), None)
        if condition is not None:
            alert.message = condition.message
            continue
        alert.cleared = now
        _tell(tx, f"alert.cleared.{alert.kind}", alert.subject, Severity.INFORMATION, f"Over: {alert.message}", now)
    for condition in wanted.values():  # none of these is open
        _raise(tx, condition, now)


def raise_once(tx: Transaction, condition: AlertCondition, now: int) -> None:
    """Raise one alert, unless it is open already."""
    if events.open_alert(tx, condition.kind, condition.subject) is None:
        _raise(tx, condition, now)


def _raise(tx: Transaction, condition: AlertCondition, now: int) -> None:
    row = AlertRow(
        kind=condition.kind,
        severity=condition.severity.value,
        subject=condition.subject,
        message=condition.message,
        remedy=condition.remedy,
        raised=now,
    )
    events.raise_alert(tx, row)
    _tell(tx, f"alert.raised.{row.kind}", row.subject, condition.severity, condition.message, now)


def _of_machine(
    machine: MachineRow | WatchedMachine, policy: PolicyRow, now: int, newest: Newest
) -> Iterable[AlertCondition]:
    subject = f"machine/{machine.id}"
    rpo = rpo_seconds(machine.newest_point_time, now)
    if machine.state in WATCHED and rpo is not None and rpo > policy.rpo_threshold:
        yield AlertCondition(
            "rpo-exceeded",
            subject,
            Severity.ERROR,
            f"The newest recovery point of {machine.name} is older than {policy.rpo_threshold} seconds.",
            f"See which stage lags: farshore machine show {machine.name}",
        )
    if machine.state in LIVE and machine.last_seen and now - machine.last_seen > AGENT_SILENT_AFTER:
        yield AlertCondition(
            "agent-silent",
            subject,
            Severity.ERROR,
            f"The mobility service of {machine.name} does not report.",
            "Check that the machine runs, reaches this server, and: systemctl status farshore-mobility",
        )
    if machine.stream_trouble:
        yield AlertCondition(
            "stream-stuck",
            subject,
            Severity.ERROR,
            f"The stream of {machine.name} is in trouble at its process server: {machine.stream_trouble}",
            "Acknowledged data is kept, and other machines are not affected.",
        )
    yield from _of_proof(machine, subject, newest)
    yield from _of_clock(machine, subject, now)
    blind = _blind_disks(machine)
    if machine.state in LIVE and blind:
        yield AlertCondition(
            "accounts-blind",
            subject,
            Severity.WARNING,
            f"The kernel of {machine.name} does not count the writes to {', '.join(blind)}: "
            "writes that escape the capture are not noticed.",
            f"On {machine.name}: {'; '.join(f'echo 1 > /sys/block/{disk}/queue/iostats' for disk in blind)}. "
            f"To compare what was written meanwhile: farshore machine resync {machine.name}",
        )
    mode = machine.heartbeat.get("mode")
    if machine.state in LIVE and mode not in (None, "data"):
        yield AlertCondition(
            "capture-degraded",
            subject,
            Severity.WARNING,
            f"Capture of {machine.name} is in {mode} mode: {machine.heartbeat.get('mode_cause') or 'cause unknown'}.",
            f"Its points come from rounds. `farshore machine check {machine.name}` says what a stream needs."
            if machine.heartbeat.get("points_every")
            else _DEGRADED_REMEDIES.get(machine.heartbeat.get("mode_cause", ""), _HEALS),
        )


def _of_proof(machine: MachineRow | WatchedMachine, subject: str, newest: Newest) -> Iterable[AlertCondition]:
    proof = machine.heartbeat.get("proof") or {}
    if machine.state in LIVE and proof.get("differing"):
        differed, where = newest(machine.id), ""
        if differed is not None:
            where = (
                f" The newest: disk {differed.disk}, bytes {differed.start} to {differed.start + differed.length}, at "
                f"position {differed.epoch}:{differed.sequence}. The newest that could explain it: {differed.cause}."
            )
        yield AlertCondition(
            DIFFERS,
            subject,
            Severity.ERROR,
            f"{proof['differing']} chunks of the copy of {machine.name} differ from its disks and "
            f"are not proven equal again.{where}",
            "They were sent again, and are proven next; both versions are kept. Points that may be wrong are marked: "
            f"farshore point list {machine.name}. To look at all of it: farshore machine prove {machine.name} --whole",
        )


def _of_clock(machine: MachineRow | WatchedMachine, subject: str, now: int) -> Iterable[AlertCondition]:
    if machine.state in LIVE and machine.clock_stepped and now - machine.clock_stepped < CLOCK_SECONDS * SECOND:
        by = (machine.heartbeat.get("clock") or {}).get("last", 0)
        yield AlertCondition(
            "clock-stepped",
            subject,
            Severity.WARNING,
            f"The clock of {machine.name} was set {set_by(int(by * SECOND))}; its points begin a new time base.",
            f"Find out what sets the clock of {machine.name}. Use an NTP service: timedatectl status",
        )
    if machine.state in LIVE and machine.clock_behind:
        yield AlertCondition(
            "clock-differs",
            subject,
            Severity.WARNING,
            f"The clock of {machine.name} is {amount(machine.clock_behind)} "
            f"{'behind' if machine.clock_behind > 0 else 'ahead of'} its process server's: the times of its points are "
            "the process server's.",
            f"Set the clock that is wrong; on {machine.name} and on the process server: timedatectl status.",
        )


def amount(seconds: float) -> str:
    """Return a clock's error as people say it."""
    whole = abs(seconds)
    if whole < 120:
        return f"{whole:.1f} s"
    return f"{whole / 60:.0f} min" if whole < 7200 else f"{whole / 3600:.1f} h"


def set_by(step: int) -> str:
    """Return ``step`` in ns as "ahead by …" or "back by …"."""
    return f"{'ahead' if step > 0 else 'back'} by {amount(step / SECOND)}"


def _blind_disks(machine: MachineRow | WatchedMachine) -> list[str]:
    """Return the names of the disks whose writes the kernel does not count, according to the agent."""
    return disk_names(
        machine, [one["disk"] for one in machine.heartbeat.get("accounts", []) if one["verdict"] == "blind"]
    )


def disk_names(machine: MachineRow | WatchedMachine, numbers: Sequence[int]) -> list[str]:
    """Return the machine's names of these disks."""
    if not numbers:
        return []  # the description is read only for machines that need it
    names = {disk["number"]: disk["name"] for disk in (machine.description or {}).get("disks", [])}
    return [names.get(number, str(number)) for number in numbers]


def _of_server(server: ProcessServerRow, now: int) -> Iterable[AlertCondition]:
    subject = f"process-server/{server.id}"
    expected = server.registered and not (server.draining and not server.spool_bytes)
    if expected and now - server.last_seen > SILENT_AFTER:
        yield AlertCondition(
            "process-server-silent",
            subject,
            Severity.ERROR,
            f"The process server at {server.url} does not report.",
            "Check that it runs and reaches this server; its machines go to another one that is well, if there is one.",
        )
    stepped = server.clock.get("seen", 0)
    if stepped and now - stepped < CLOCK_SECONDS * SECOND:
        yield AlertCondition(
            "process-server-clock-stepped",
            subject,
            Severity.WARNING,
            f"The clock of the process server at {server.url} was set {set_by(int(server.clock['last'] * SECOND))}.",
            "Use an NTP service: timedatectl status. Points that were stored meanwhile may have its times.",
        )
    if server.overstepped and now - server.overstepped <= OVERSTEPPED_FOR:
        yield AlertCondition(
            "process-server-overstepped",
            subject,
            Severity.ERROR,
            f"The process server at {server.url} reported about machines that it does not serve, or asked for their "
            f"keys or streams: {server.overstepped_with}.",
            "It was refused. It also asks for a stream if such a machine connects to it. Find out why, or revoke it: "
            f"farshore process-server revoke {server.name}",
        )
    if server.spool_trouble:
        yield AlertCondition(
            "spool-trouble",
            subject,
            Severity.ERROR,
            f"The process server at {server.url} accepts no data: {server.spool_trouble}",
            "Agents keep the stream meanwhile. Check the disk of the spool.",
        )
    if server.store_trouble:
        yield AlertCondition(
            "store-trouble",
            subject,
            Severity.ERROR,
            f"The process server at {server.url} cannot store: {server.store_trouble}",
            "Its spool keeps the data meanwhile. Check the object store.",
        )
    if server.spool_limit and server.spool_bytes > SPOOL_FILLING * server.spool_limit:
        yield AlertCondition(
            "spool-filling",
            subject,
            Severity.WARNING,
            f"The spool of the process server at {server.url} is more than {SPOOL_FILLING:.0%} full.",
            "When it is full, agents are slowed down. Find out why the object store is slower than they are.",
        )


def _of_master_target(target: MasterTargetRow, now: int) -> Iterable[AlertCondition]:
    if errands.standing(target, now) is MasterTargetStanding.SILENT:
        # No machine is worse protected because of it, so it is no error; but who needs it needs it at once.
        yield AlertCondition(
            "master-target-silent",
            f"master-target/{target.id}",
            Severity.WARNING,
            f"The master target {target.name} does not report.",
            "Read the log of `farshore up`, which restarts it. To run without one: farshore up --no-master-target"
            if target.own
            else "On its host: systemctl status farshore-master-target. If it no longer exists: "
            f"farshore master-target remove {target.name}",
        )


def _tell(tx: Transaction, kind: str, subject: str, severity: Severity, message: str, now: int) -> None:
    events.record(tx, time=now, kind=kind, actor="server", subject=subject, severity=severity, message=message)
