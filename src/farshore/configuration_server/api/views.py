"""Convert rows of the catalog to REST bodies."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from farshore.api_types.alerts import Channel, ChannelKind
from farshore.api_types.checks import Evidence
from farshore.api_types.events import Alert, Event, Severity
from farshore.api_types.failovers import Failover, FailoverKind, GuestPreparation, Incident
from farshore.api_types.machines import Description, Heartbeat, Machine, MachineSummary, TokenView
from farshore.api_types.master_targets import MasterTarget
from farshore.api_types.points import MOST_DOUBTS, Point
from farshore.api_types.policies import Policy
from farshore.api_types.servers import ProcessServer
from farshore.api_types.sites import Site
from farshore.api_types.targets import PolicyTarget, Readiness, Target
from farshore.api_types.users import Role, User
from farshore.catalog.differences import affecting
from farshore.catalog.failovers import migrates
from farshore.catalog.machines import ListedMachine
from farshore.catalog.tables import (
    AlertChannelRow,
    AlertRow,
    DifferenceRow,
    EventRow,
    FailoverRow,
    MachineRow,
    MasterTargetRow,
    PointRow,
    PolicyRow,
    ProcessServerRow,
    SiteRow,
    TokenRow,
    UserRow,
)
from farshore.model.bandwidth import rate_at, rates
from farshore.model.point import PointKind
from farshore.model.states import MachineState
from farshore.protection.assignment import SILENT_AFTER, is_healthy, standing
from farshore.protection.errands import standing as master_target_standing
from farshore.protection.push.bundle import default_cache, known_release
from farshore.protection.watch import AGENT_SILENT_AFTER, rpo_seconds
from farshore.recovery.standing import downtime

log = logging.getLogger(__name__)


def machine(
    row: MachineRow,
    now: int,
    servers: Sequence[ProcessServerRow],
    more: Sequence[str] = (),
    readiness: Readiness | None = None,
) -> Machine:
    """Return a machine with the last reports of its agent and process server, and ``more`` warnings."""
    by_id = {server.id: server for server in servers}
    sends_to = by_id.get(row.process_server or "")
    moves_to = by_id.get(row.moving_to)
    seen = heartbeat(row)
    description = Description.model_validate(row.description)
    excluded = set(row.exclude_disks)
    disks = [
        # The desired mode counts: the agent reports the same as soon as it has followed.
        disk.model_copy(update={"excluded": disk.number in excluded})
        for disk in description.disks
    ]
    return Machine(
        id=row.id,
        name=row.name,
        state=MachineState(row.state),
        site=row.site,
        line=f"{row.line_epoch}:{row.line_sequence}" if row.line_epoch else "",
        policy=row.policy,
        description=description.model_copy(update={"disks": disks}),
        epoch=row.epoch,
        mode=seen.mode if seen else None,
        mode_cause=seen.mode_cause if seen else "",
        mode_since=seen.mode_since if seen else 0,
        points_every=seen.points_every if seen else 0,
        agent=(seen.release or seen.version) if seen else "",
        upgrade=_upgrade(seen) if seen else "",
        last_seen=row.last_seen,
        rpo_seconds=rpo_seconds(row.newest_point_time, now),
        lag=_lag(row.last_seen, seen.lag if seen else {}, row.lag, sends_to, now),
        progress=seen.progress if seen else None,
        accounts=seen.accounts if seen else [],
        proof=seen.proof if seen else None,
        warnings=[*(seen.warnings if seen else []), *_server_warnings(sends_to, now), *_stuck(row), *more],
        process_server=sends_to.name if sends_to else "",
        moving_to=moves_to.name if moves_to else "",
        readiness=readiness or Readiness(),
    )


def summary(row: ListedMachine, now: int, servers: Mapping[str, ProcessServerRow]) -> MachineSummary:
    """Return a machine in a list; ``servers`` by id."""
    server = servers.get(row.process_server or "")
    said: dict[str, Any] = row.heartbeat or {}
    known = {
        "id": row.id,
        "name": row.name,
        "state": row.state,
        "policy": row.policy,
        "last_seen": row.last_seen,
        "rpo_seconds": rpo_seconds(row.newest_point_time, now),
        "process_server": server.name if server else "",
    }
    try:
        lag = _lag(row.last_seen, said.get("lag") or {}, row.lag, server, now)
        return MachineSummary.model_validate(
            {**known, "mode": said.get("mode"), "progress": said.get("progress"), "lag": lag}
        )
    except (ValidationError, TypeError) as error:
        log.warning("The last heartbeat of %s is not understood: %s", row.name, type(error).__name__)
        return MachineSummary.model_validate({**known, "lag": _lag(row.last_seen, {}, row.lag, server, now)})


def heartbeat(row: MachineRow) -> Heartbeat | None:
    """Return the agent's last report. None if there is none, or if it was sent to another release of this server and is
    not understood."""
    try:
        return Heartbeat.model_validate(row.heartbeat) if row.heartbeat else None
    except ValidationError as error:
        log.warning("The last heartbeat of %s is not understood: %s", row.name, error.errors(include_input=False)[0])
        return None


def _upgrade(seen: Heartbeat) -> str:
    """Return the release that would replace the agent; empty if it is the same, or the agent cannot be replaced."""
    here = known_release(seen.python, default_cache()) if seen.release else ""
    return "" if here == seen.release else here


def _server_warnings(server: ProcessServerRow | None, now: int) -> list[str]:
    """Return the problems of a machine's process server, because they affect the machine too."""
    if server is None:
        return []
    found = [
        f"Its process server {server.name} cannot {what}: {trouble}"
        for what, trouble in (("store", server.store_trouble), ("take more in", server.spool_trouble))
        if trouble
    ]
    if not is_healthy(server, now):
        found.append(f"Its process server {server.name} is {standing(server, 1, now).value}.")
    return found


def _lag(
    last_seen: int,
    said: Mapping[str, float],
    reported: Mapping[str, float],
    server: ProcessServerRow | None,
    now: int,
) -> dict[str, float]:
    """Return the lag by stage, in the order of the stream: what the agent (``said``) and the process server
    (``reported``) reported. Values of a program that has been silent since are omitted."""
    of_agent = said if now - last_seen <= AGENT_SILENT_AFTER else {}
    of_server = reported if server and now - server.last_seen <= SILENT_AFTER else {}
    return {**of_agent, **of_server}


def _stuck(row: MachineRow) -> list[str]:
    return [f"Its stream is in trouble at the process server: {row.stream_trouble}"] if row.stream_trouble else []


def point(row: PointRow, found: Sequence[DifferenceRow] = ()) -> Point:
    """Return a recovery point; ``found``: the differences in its machine's copy."""
    doubts = affecting(found, row.epoch, row.sequence)
    places = dict.fromkeys(f"disk {one.disk}, bytes {one.start} to {one.start + one.length}" for one in doubts)
    return Point(
        id=row.id,
        machine=row.machine,
        epoch=row.epoch,
        sequence=row.sequence,
        time=row.time,
        kind=PointKind(row.kind),
        name=row.name,
        pinned=row.pinned,
        doubts=list(places)[:MOST_DOUBTS],
    )


def policy(row: PolicyRow, failback: str = "") -> Policy:
    """Return a replication policy, and the name of its failback policy."""
    return Policy(
        name=row.name,
        rpo_threshold=row.rpo_threshold,
        crash_consistent_every=row.crash_consistent_every,
        app_consistent_every=row.app_consistent_every,
        hot_window=row.hot_window,
        keep_hourly=row.keep_hourly,
        keep_daily=row.keep_daily,
        keep_weekly=row.keep_weekly,
        bandwidth=row.bandwidth,
        time_zone=row.time_zone,
        deduplication=row.deduplication,
        target=PolicyTarget.model_validate(row.target),
        failback=failback,
        reverses=row.reverses,
    )


def failover(row: FailoverRow) -> Failover:
    """Return a recovered machine."""
    evidence = Evidence.model_validate(row.evidence)
    return Failover(
        id=row.id,
        machine=row.machine,
        kind=FailoverKind(row.kind),
        point_epoch=row.point_epoch,
        point_sequence=row.point_sequence,
        point_time=row.point_time,
        site=row.site,
        direction=row.direction,
        migrate=migrates(row),
        state=row.state,
        forward={int(host): int(guest) for host, guest in row.forward.items()},
        target=Target.model_validate(row.target),
        address=row.address,
        checked=row.checked,
        preparation=GuestPreparation.model_validate(row.preparation or {}),
        condition=row.condition,
        condition_since=row.condition_since,
        stopped=row.stopped,
        requested=row.requested,
        running=row.running,
        proof=row.proof,
        message=row.message,
        job=row.job,
        parent=row.parent,
        downtime_seconds=downtime(row),
        evidence=evidence,
        verdict=evidence.verdict,
    )


def incident(row: EventRow) -> Incident:
    """Return an event in the form of a report."""
    return Incident(time=row.time, kind=row.kind, severity=row.severity, message=row.message)


def site(row: SiteRow, failovers: int) -> Site:
    """Return a recovery site, without its secret."""
    return Site(
        id=row.id,
        kind=row.kind,
        settings=row.settings,
        has_secret=bool(row.secret),
        created=row.created,
        failovers=failovers,
        lost=row.lost,
    )


def process_server(row: ProcessServerRow, machines: int, now: int) -> ProcessServer:
    """Return a process server and its state."""
    return ProcessServer(
        id=row.id,
        name=row.name,
        url=row.url,
        version=row.version,
        standing=standing(row, machines, now),
        last_seen=row.last_seen,
        healthy=is_healthy(row, now),
        spool_bytes=row.spool_bytes,
        spool_limit=row.spool_limit,
        spool_trouble=row.spool_trouble,
        store_trouble=row.store_trouble,
        store_trouble_since=row.store_trouble_since,
        machines=machines,
        bandwidth=row.bandwidth,
        time_zone=row.time_zone,
        rate=rate_at(rates(row.bandwidth, row.time_zone, now), now),
        requests=row.requests,
        temporary_for=(row.temporary or {}).get("failover", ""),
        requests_a_day=a_day(row.requests, row.requests_seconds),
    )


def master_target(row: MasterTargetRow, errands: int, now: int) -> MasterTarget:
    """Return a master target and its state."""
    return MasterTarget(
        id=row.id,
        name=row.name,
        own=row.own,
        standing=master_target_standing(row, now),
        version=row.version,
        last_seen=row.last_seen,
        errands=errands,
    )


def a_day(requests: Mapping[str, int], seconds: float) -> dict[str, float]:
    """Convert request counts over ``seconds`` to counts per day."""
    return {kind: round(number * 86400 / seconds, 1) for kind, number in requests.items()} if seconds else {}


def token(row: TokenRow) -> TokenView:
    """Return a token without its secret."""
    return TokenView(
        id=row.id,
        name=row.name,
        created=row.created,
        expires=row.expires,
        used=row.used,
        machine=row.machine,
        process_server=row.process_server,
    )


def user(row: UserRow, expires: int) -> User:
    """Return a user."""
    return User(name=row.name, role=Role(row.role), created=row.created, expires=expires)


def event(row: EventRow) -> Event:
    """Return a line of the log."""
    return Event(
        id=row.id,
        time=row.time,
        kind=row.kind,
        severity=Severity(row.severity),
        actor=row.actor,
        subject=row.subject,
        message=row.message,
        detail=row.detail,
    )


def alert(row: AlertRow) -> Alert:
    """Return an alert."""
    return Alert(
        id=row.id,
        kind=row.kind,
        severity=Severity(row.severity),
        subject=row.subject,
        message=row.message,
        remedy=row.remedy,
        raised=row.raised,
        cleared=row.cleared,
        acknowledged=row.acknowledged,
        acknowledged_by=row.acknowledged_by,
    )


def alert_channel(row: AlertChannelRow) -> Channel:
    """Return an alert channel; its secret remains sealed."""
    return Channel(
        name=row.name,
        kind=ChannelKind(row.kind),
        settings=row.settings,
        severity=Severity(row.severity),
        repeat_every=row.repeat_every,
        created=row.created,
        delivered=row.delivered,
        trouble=row.trouble,
        trouble_since=row.trouble_since,
    )
