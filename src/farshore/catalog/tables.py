"""The tables, as typed SQLAlchemy models.

Rows are what queries answer inside a transaction; REST bodies are made of them in the configuration server. Times are
nanoseconds since 1970 UTC, 0 for "not yet". States and kinds are stored by their public text. A change here needs a
migration in ``migrations/versions``; a test compares the two.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    UniqueConstraint,
    event,
    inspect,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Mapper, mapped_column

RowNumber = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column that is an INTEGER and nothing else."""
JsonObject = dict[str, Any]


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can name them as well."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {int: BigInteger, JsonObject: JSON, list[Any]: JSON}  # noqa: RUF012 - SQLAlchemy's interface


class InstallationRow(Base):
    """Which installation this is, and its right to its vault; one row. See farshore.vault.ownership."""

    __tablename__ = "installation"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    vault: Mapped[str] = mapped_column(String(36), default="")
    """The id of the vault that it owns, as the generation ``generation``; empty: none yet."""
    generation: Mapped[int] = mapped_column(default=0)
    epochs_from: Mapped[int] = mapped_column(default=0)
    """Epochs that it grants have greater numbers."""


class PolicyRow(Base):
    """A replication policy; durations in seconds."""

    __tablename__ = "policies"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    rpo_threshold: Mapped[int]
    crash_consistent_every: Mapped[int]
    app_consistent_every: Mapped[int]
    hot_window: Mapped[int]
    keep_hourly: Mapped[int]
    keep_daily: Mapped[int]
    keep_weekly: Mapped[int]
    bandwidth: Mapped[list[Any]] = mapped_column(default=list)
    """Texts of farshore.model.bandwidth, for each machine's stream; the first that fits a moment holds."""
    time_zone: Mapped[str] = mapped_column(String(64), default="UTC")
    deduplication: Mapped[str] = mapped_column(String(80), default="installation")
    """With whom its machines share chunks, as in farshore.model.policy."""
    target: Mapped[JsonObject] = mapped_column(default=dict)
    """What it chooses of a farshore.api_types.targets.PolicyTarget for its machines."""
    reverses: Mapped[str] = mapped_column(String(64), default="")
    """The policy whose failback policy it is; empty: it is for machines that run where they were enrolled."""
    chosen: Mapped[list[Any]] = mapped_column(default=list)
    """Of a failback policy: the values that are its own. All others follow those of the policy that it reverses."""


class ProcessServerRow(Base):
    """A process server and what it reported last."""

    __tablename__ = "process_servers"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    url: Mapped[str]
    version: Mapped[str] = mapped_column(default="")
    registered: Mapped[int] = mapped_column(default=0)
    last_seen: Mapped[int] = mapped_column(default=0)
    spool_bytes: Mapped[int] = mapped_column(default=0)
    spool_limit: Mapped[int] = mapped_column(default=0)
    spool_trouble: Mapped[str] = mapped_column(default="")
    store_trouble: Mapped[str] = mapped_column(default="")
    store_trouble_since: Mapped[int] = mapped_column(default=0)
    clock: Mapped[JsonObject] = mapped_column(default=dict)
    """``steps``, ``last`` (seconds) as in ClockStanding, and ``seen`` (ns, by our clock); empty: it does not say."""
    requests: Mapped[JsonObject] = mapped_column(default=dict)
    """To the store, by kind, in ``requests_seconds`` since it started."""
    requests_seconds: Mapped[float] = mapped_column(default=0.0)
    # Wanted of it
    name: Mapped[str] = mapped_column(String(64), default="")
    host_names: Mapped[list[Any]] = mapped_column(default=list)
    """What its certificate holds; empty for the server that ``farshore up`` runs: the names of the installation."""
    draining: Mapped[bool] = mapped_column(default=False)
    bandwidth: Mapped[list[Any]] = mapped_column(default=list)
    """Texts of farshore.model.bandwidth, for all that it stores."""
    time_zone: Mapped[str] = mapped_column(String(64), default="UTC")
    temporary: Mapped[JsonObject] = mapped_column(default=dict)
    """As farshore.protection.temporary_servers has it; empty: it stays."""
    overstepped: Mapped[int] = mapped_column(default=0)
    """When it last reported about a machine that it does not serve,"""
    overstepped_with: Mapped[str] = mapped_column(default="")
    """and about which."""


class MachineRow(Base):
    """A machine, where it stands, what is wanted of it and what its agent said last."""

    __tablename__ = "machines"
    __table_args__ = (
        Index("ix_machines_state_name", "state", "name"),
        Index("ix_machines_policy_name", "policy", "name"),
        Index("ix_machines_process_server_name", "process_server", "name"),
        # All that the watch reads of a machine in each round. Nothing in it changes with a heartbeat: on PostgreSQL an
        # update of a column that has an index writes to all indexes, and serializable writers then meet one another.
        Index(
            "ix_machines_standing", "state", "policy", "process_server", "moving_to", "chosen_server", "notable", "id"
        ),
    )
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(String(32))
    enrolled: Mapped[int]
    policy: Mapped[str] = mapped_column(ForeignKey("policies.name"))
    description: Mapped[JsonObject]
    hardware_id: Mapped[str] = mapped_column(default="", index=True)
    """Of the instance at the place where it was enrolled."""
    # Where it runs, and who owns its stream: changed with its state, in one transaction.
    site: Mapped[str] = mapped_column(String(32), default="")
    """The recovery site that runs it; empty: the place where it was enrolled."""
    owner: Mapped[str] = mapped_column(default="")
    """The hardware id of the instance at ``site``; empty: unknown, or it runs where it was enrolled."""
    # The line of its life that the last failover began, which grows from the position that was chosen: what an epoch
    # stands on until one is consistent whose number is above ``line_after``. 0: it was never failed over.
    line_epoch: Mapped[int] = mapped_column(default=0)
    line_sequence: Mapped[int] = mapped_column(default=0)
    line_after: Mapped[int] = mapped_column(default=0)
    # Desired
    protect: Mapped[bool] = mapped_column(default=False)
    exclude_disks: Mapped[list[Any]] = mapped_column(default=list)
    bandwidth_limit: Mapped[int] = mapped_column(default=0)
    cpu_percent: Mapped[int] = mapped_column(default=10)
    memory_limit: Mapped[int] = mapped_column(default=256 << 20)
    proof_pace: Mapped[int] = mapped_column(default=2_000_000)
    process_server: Mapped[str | None] = mapped_column(ForeignKey("process_servers.id"))
    """Where it sends."""
    moving_to: Mapped[str] = mapped_column(String(36), default="")
    """The process server that takes it over once the present one has stored everything; empty: it stays."""
    target: Mapped[JsonObject] = mapped_column(default=dict)
    """What was chosen for it of a farshore.api_types.targets.Target."""
    chosen_server: Mapped[str] = mapped_column(String(36), default="")
    """The process server that an operator chose; empty: whichever has the fewest machines."""
    # Who may send: the newest epoch, and the run of the agent that it was granted to.
    epoch: Mapped[int] = mapped_column(default=0)
    run: Mapped[str] = mapped_column(default="")
    # Observed
    heartbeat: Mapped[JsonObject] = mapped_column(default=dict)
    last_seen: Mapped[int] = mapped_column(default=0)
    newest_point_time: Mapped[int] = mapped_column(default=0)
    """When the newest state that is in the vault was the machine's, by our clock; 0: there is none."""
    last_app_consistent: Mapped[int] = mapped_column(default=0)
    lag: Mapped[JsonObject] = mapped_column(default=dict)
    stream_trouble: Mapped[str] = mapped_column(default="")
    """Why its process server cannot store what it holds of the stream; empty: it can."""
    clock_behind: Mapped[float] = mapped_column(default=0.0)
    """Seconds that its process server adds to its times; 0: the two clocks agree."""
    clock_stepped: Mapped[int] = mapped_column(default=0)
    """When its clock was set last, by ours; 0: never, or so long ago that no alert tells of it."""
    notable: Mapped[bool] = mapped_column(default=True)
    """Whether something may be wrong with it that does not depend on the time; kept by ``_note``."""


_JUDGED = ("stream_trouble", "clock_behind", "clock_stepped", "heartbeat")


def _is_notable(row: MachineRow) -> bool:
    """Whether a condition of farshore.protection.watch may hold whose cause is in the row, not in its age."""
    if row.stream_trouble or row.clock_behind or row.clock_stepped:
        return True
    seen = row.heartbeat or {}
    try:
        return (
            seen.get("mode") not in (None, "data")
            or bool((seen.get("proof") or {}).get("differing"))
            or any(one["verdict"] == "blind" for one in seen.get("accounts", []))
        )
    except (AttributeError, KeyError, TypeError):
        return True  # the watch says what it cannot judge


@event.listens_for(MachineRow, "before_insert")
@event.listens_for(MachineRow, "before_update")
def _note(_mapper: Mapper[MachineRow], _connection: Connection, row: MachineRow) -> None:
    state = inspect(row)
    changed = [name for name in _JUDGED if name in state.committed_state]
    # What a report changes of a thousand machines each second is not judged, and need not be read for it.
    if not state.persistent or any(state.attrs[name].history.has_changes() for name in changed):
        row.notable = _is_notable(row)


class EpochRow(Base):
    """One grant. ``closed`` is 0 while its holder may send; ``parent_epoch`` 0 means that it stands alone."""

    __tablename__ = "epochs"
    __table_args__ = (Index("ix_epochs_closed_machine", "closed", "machine"),)
    machine: Mapped[str] = mapped_column(ForeignKey("machines.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    run: Mapped[str]
    process_server: Mapped[str]
    parent_epoch: Mapped[int] = mapped_column(default=0)
    parent_sequence: Mapped[int] = mapped_column(default=0)
    exact: Mapped[bool] = mapped_column(default=False)
    """It stands on its parent at just that place: what the parent has after it belongs to another line."""
    description: Mapped[JsonObject]
    granted: Mapped[int]
    closed: Mapped[int] = mapped_column(default=0)
    close_reason: Mapped[str] = mapped_column(default="")
    consistent: Mapped[bool] = mapped_column(default=False)
    consistent_from: Mapped[int] = mapped_column(default=0)
    consistent_time: Mapped[int] = mapped_column(default=0)
    # As the process server reported: the newest sequence received, and stored in the vault.
    received: Mapped[int] = mapped_column(default=0)
    stored: Mapped[int] = mapped_column(default=0)
    written: Mapped[int] = mapped_column(default=0)
    """Up to where there is more than marks in what is stored: behind it the machine has written nothing."""
    stored_time: Mapped[int] = mapped_column(default=0)
    reported: Mapped[int] = mapped_column(default=0)
    served_before: Mapped[list[Any]] = mapped_column(default=list)
    """Ids of the process servers that took this epoch before the present one: they may report what they still hold."""
    domain: Mapped[int] = mapped_column(default=0)
    """The deduplication domain of its base, as the vault numbers it; 0 is the installation's."""
    domain_name: Mapped[str] = mapped_column(String(80), default="")
    """Its name, as in farshore.model.policy; empty for the installation's."""


class KeyGrantRow(Base):
    """The keys of a machine that a process server, or a master target, was given. It outlives the machine's row, so it
    refers to none."""

    __tablename__ = "key_grants"
    machine: Mapped[str] = mapped_column(String(36), primary_key=True)
    process_server: Mapped[str] = mapped_column(String(36), primary_key=True)
    domains: Mapped[list[Any]] = mapped_column(default=list)
    """Deduplication domains whose keys went with them."""
    first: Mapped[int]
    """When it asked for the first time."""


class PointRow(Base):
    """A recovery point, durable in the vault."""

    __tablename__ = "points"
    __table_args__ = (
        UniqueConstraint("machine", "epoch", "sequence", "kind", "name"),
        Index("ix_points_machine_time", "machine", "time"),
    )
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    machine: Mapped[str] = mapped_column(ForeignKey("machines.id", ondelete="CASCADE"))
    epoch: Mapped[int]
    sequence: Mapped[int]
    time: Mapped[int]
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(default="")
    pinned: Mapped[bool] = mapped_column(default=False)
    """Whether retention keeps it, as the vault was last seen to say."""


class CommandRow(Base):
    """Something that an agent is asked to do, offered to it while it is waiting."""

    __tablename__ = "commands"
    __table_args__ = (Index("ix_commands_state_closed", "state", "closed"),)
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    machine: Mapped[str] = mapped_column(ForeignKey("machines.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    arguments: Mapped[JsonObject] = mapped_column(default=dict)
    """As farshore.api_types.commands has them for the kind."""
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    created: Mapped[int]
    closed: Mapped[int] = mapped_column(default=0)
    """When its result came, or it was withdrawn."""
    result: Mapped[JsonObject] = mapped_column(default=dict)
    """The payload, without its kind."""
    failure: Mapped[JsonObject] = mapped_column(default=dict)
    """``code``, ``message`` and ``remedy``, where it failed; of a withdrawn one ``message`` says why."""


class GuestScriptRow(Base):
    """One run of a script that checks a recovered machine from within: kept, and granted to that machine's agent alone,
    while it is waiting."""

    __tablename__ = "guest_scripts"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    failover: Mapped[str] = mapped_column(ForeignKey("failovers.id", ondelete="CASCADE"), index=True)
    machine: Mapped[str] = mapped_column(String(36), index=True)
    hardware: Mapped[str]
    """The id that the firmware of the recovered machine shows."""
    place: Mapped[int]
    """Which of the failover's checks it is for."""
    name: Mapped[str] = mapped_column(String(64))
    content: Mapped[str]
    """In base64."""
    digest: Mapped[str] = mapped_column(String(64))
    seconds: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    created: Mapped[int]
    closed: Mapped[int] = mapped_column(default=0)
    status: Mapped[int | None] = mapped_column(default=None)
    """What it exited with; None: it has not, or was cut off."""
    output: Mapped[str] = mapped_column(default="")


class DifferenceRow(Base):
    """A chunk of the copy that was not what the machine's disk held at epoch:sequence; it was sent again right after.
    States after proven_epoch:proven_sequence (0:0: nobody knows) up to there may be wrong in it."""

    __tablename__ = "differences"
    machine: Mapped[str] = mapped_column(ForeignKey("machines.id", ondelete="CASCADE"), primary_key=True)
    disk: Mapped[int] = mapped_column(primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    length: Mapped[int]
    proven_epoch: Mapped[int]
    proven_sequence: Mapped[int]
    time: Mapped[int]
    cause: Mapped[str]


class SiteRow(Base):
    """A recovery site. ``secret`` is sealed, empty if its kind asks for none."""

    __tablename__ = "sites"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    settings: Mapped[JsonObject] = mapped_column(default=dict)
    secret: Mapped[bytes] = mapped_column(LargeBinary, default=b"")
    created: Mapped[int] = mapped_column(default=0)
    lost: Mapped[int] = mapped_column(default=0)
    """When it was declared lost; 0: it is not."""
    left: Mapped[list[Any]] = mapped_column(default=list)
    """Failovers that were removed meanwhile, and of which something may still be there."""


class FailoverRow(Base):
    """A recovered machine at a recovery site, tests included."""

    __tablename__ = "failovers"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    machine: Mapped[str] = mapped_column(ForeignKey("machines.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(32))
    site: Mapped[str] = mapped_column(String(32))
    request: Mapped[JsonObject]
    proof: Mapped[str] = mapped_column(default="")
    """How much of the copy was proven equal when its point was chosen."""
    point_epoch: Mapped[int] = mapped_column(default=0)
    point_sequence: Mapped[int] = mapped_column(default=0)
    point_time: Mapped[int] = mapped_column(default=0)
    forward: Mapped[JsonObject] = mapped_column(default=dict)
    target: Mapped[JsonObject] = mapped_column(default=dict)
    """What its machine's target was when it was asked for, as farshore.api_types.targets.Target has it."""
    address: Mapped[str] = mapped_column(default="")
    requested: Mapped[int]
    running: Mapped[int] = mapped_column(default=0)
    ended: Mapped[int] = mapped_column(default=0)
    job: Mapped[str] = mapped_column(default="")
    parent: Mapped[str] = mapped_column(String(36), default="", index=True)
    """The job that starts ``job`` as its child; empty: it is started by itself."""
    direction: Mapped[str] = mapped_column(String(16), default="away")
    message: Mapped[str] = mapped_column(default="")
    checked: Mapped[str] = mapped_column(default="")
    """What of the machine was seen working before it counted as running."""
    evidence: Mapped[JsonObject] = mapped_column(default=dict)
    """As farshore.api_types.checks.Evidence has it."""
    cancelled: Mapped[bool] = mapped_column(default=False)
    """Somebody asked for the end of its job."""
    stopped: Mapped[bool] = mapped_column(default=False)
    """It is not to run: somebody stopped it, or a job removes it."""
    preparation: Mapped[JsonObject] = mapped_column(default=dict)
    """What was changed in its guest, as farshore.api_types.failovers.GuestPreparation has it; empty: it was not looked
    at."""
    condition: Mapped[str] = mapped_column(String(16), default="")
    """How its machine was when it was last looked at, since ``condition_since``."""
    condition_since: Mapped[int] = mapped_column(default=0)


class TokenRow(Base):
    """A one-time enrolment token, by the SHA-256 of its secret."""

    __tablename__ = "enrolment_tokens"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(default="")
    created: Mapped[int]
    created_by: Mapped[str]
    expires: Mapped[int]
    policy: Mapped[str] = mapped_column(String(64))
    protect: Mapped[bool]
    used: Mapped[int] = mapped_column(default=0)
    machine: Mapped[str] = mapped_column(default="")
    process_server: Mapped[str] = mapped_column(String(36), default="")
    """The process server that may enrol with it,"""
    master_target: Mapped[str] = mapped_column(String(36), default="")
    """or the master target; both empty: it is for a machine."""


class UserRow(Base):
    """Somebody who may call the API."""

    __tablename__ = "users"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    created: Mapped[int]


class CertificateRow(Base):
    """A certificate that was issued. One that is not here, or is revoked, opens nothing."""

    __tablename__ = "certificates"
    __table_args__ = (Index("ix_certificates_kind_subject", "kind", "subject"),)
    serial: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str]
    issued: Mapped[int]
    expires: Mapped[int]
    revoked: Mapped[int] = mapped_column(default=0)


class EventRow(Base):
    """What happened, and who asked for it."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    time: Mapped[int] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(String(64))
    severity: Mapped[str] = mapped_column(String(16))
    actor: Mapped[str]
    subject: Mapped[str] = mapped_column(index=True)
    message: Mapped[str]
    detail: Mapped[JsonObject] = mapped_column(default=dict)


class AuditRow(Base):
    """What somebody changed or was refused. Append-only by triggers; see farshore.catalog.audit."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    time: Mapped[int]
    kind: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str]
    source: Mapped[str] = mapped_column(String(64), default="")
    subject: Mapped[str]
    message: Mapped[str]
    detail: Mapped[JsonObject] = mapped_column(default=dict)
    previous: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))


class AlertRow(Base):
    """A condition that needs somebody; open while ``cleared`` is 0."""

    __tablename__ = "alerts"
    __table_args__ = (
        Index("ix_alerts_kind_subject_cleared", "kind", "subject", "cleared"),
        Index("ix_alerts_cleared", "cleared"),
    )
    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(64))
    severity: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str]
    message: Mapped[str]
    remedy: Mapped[str]
    raised: Mapped[int]
    cleared: Mapped[int] = mapped_column(default=0)
    acknowledged: Mapped[int] = mapped_column(default=0)
    """When somebody said to have seen it; it is not sent again after that."""
    acknowledged_by: Mapped[str] = mapped_column(default="")


class AlertChannelRow(Base):
    """A channel on which alerts reach people. ``secret`` is sealed, empty if there is none."""

    __tablename__ = "alert_channels"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    settings: Mapped[JsonObject] = mapped_column(default=dict)
    secret: Mapped[bytes] = mapped_column(LargeBinary, default=b"")
    severity: Mapped[str] = mapped_column(String(16))
    """The least of what is sent."""
    repeat_every: Mapped[int]
    """Seconds; 0: never."""
    created: Mapped[int] = mapped_column(default=0)
    claimed: Mapped[int] = mapped_column(default=0)
    """Since when a server is sending on it: of several servers one does."""
    delivered: Mapped[int] = mapped_column(default=0)
    trouble: Mapped[str] = mapped_column(default="")
    trouble_since: Mapped[int] = mapped_column(default=0)


class AlertNoticeRow(Base):
    """What a channel was told of an alert: that it is there, last at ``sent``, and that it is over."""

    __tablename__ = "alert_notices"
    channel: Mapped[str] = mapped_column(ForeignKey("alert_channels.name", ondelete="CASCADE"), primary_key=True)
    alert: Mapped[int] = mapped_column(RowNumber, ForeignKey("alerts.id", ondelete="CASCADE"), primary_key=True)
    sent: Mapped[int] = mapped_column(default=0)
    over: Mapped[int] = mapped_column(default=0)


class SecretRow(Base):
    """Something that a job needs and that must not be read from the database: sealed, and dropped with its job."""

    __tablename__ = "secrets"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created: Mapped[int]


class PushRow(Base):
    """A push that a process server carries out; ``id`` is that of the job which asked for it, and takes it along."""

    __tablename__ = "pushes"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    server: Mapped[str] = mapped_column(String(36), index=True)
    actor: Mapped[str]
    login: Mapped[JsonObject]
    """Where and as whom to log in, and what to protect; no secret."""
    secret: Mapped[str] = mapped_column(String(36))
    """Id of the sealed key or password."""
    token: Mapped[str] = mapped_column(String(36))
    token_secret: Mapped[bytes] = mapped_column(LargeBinary)
    """Sealed under the push's id."""
    created: Mapped[int]
    ends: Mapped[int] = mapped_column(default=0)
    """When it fails: where it waits in line, where it was begun. Until then something must have come of it."""
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    # What its process server says
    run: Mapped[str] = mapped_column(default="")
    """The start of the process server that has begun it last."""
    begun: Mapped[int] = mapped_column(default=0)
    """How often it was begun."""
    signs: Mapped[int] = mapped_column(default=0)
    """How often something was heard of it."""
    fraction: Mapped[float] = mapped_column(default=0.0)
    detail: Mapped[str] = mapped_column(default="")
    result: Mapped[JsonObject] = mapped_column(default=dict)
    """A PushResult, once it has ended."""


class MasterTargetRow(Base):
    """A master target and what it said last."""

    __tablename__ = "master_targets"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    own: Mapped[bool] = mapped_column(default=False)
    """It is the one that ``farshore up`` runs."""
    registered: Mapped[int] = mapped_column(default=0)
    """When it came for the first time; 0: it was invited and has not come yet."""
    revoked: Mapped[bool] = mapped_column(default=False)
    version: Mapped[str] = mapped_column(default="")
    last_seen: Mapped[int] = mapped_column(default=0)
    host: Mapped[str] = mapped_column(String(64), default="")
    """Which running system it is on, as the kernel names it."""


class ErrandRow(Base):
    """What a master target is to do for a failback, from when its job asks until it has the outcome."""

    __tablename__ = "errands"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    failover: Mapped[str] = mapped_column(String(36), unique=True)
    master_target: Mapped[str] = mapped_column(String(36), index=True)
    machine: Mapped[str] = mapped_column(String(36))
    errand: Mapped[str] = mapped_column(String(16))
    position: Mapped[str] = mapped_column(default="")
    places: Mapped[list[Any]] = mapped_column(default=list)
    created: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    # What the master target says
    run: Mapped[str] = mapped_column(default="")
    """Its start that has begun it last."""
    signs: Mapped[int] = mapped_column(default=0)
    """How often something was heard of it."""
    fraction: Mapped[float] = mapped_column(default=0.0)
    detail: Mapped[str] = mapped_column(default="")
    result: Mapped[JsonObject] = mapped_column(default=dict)
    """An ErrandResult, once it has ended."""


class PushAccountRow(Base):
    """How to log in to machines by SSH. ``secret`` is sealed: a private key, or a JSON object with a password."""

    __tablename__ = "push_accounts"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    user: Mapped[str]
    by: Mapped[str] = mapped_column(String(16))
    jump: Mapped[str] = mapped_column(default="")
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    created: Mapped[int]


class VmwareServerRow(Base):
    """A vCenter or an ESXi host. ``certificate`` is the pinned one in PEM, ``secret`` the sealed password; from
    ``product`` on it is how discovery goes."""

    __tablename__ = "vmware_servers"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    host: Mapped[str]
    port: Mapped[int]
    user: Mapped[str]
    certificate: Mapped[str]
    fingerprint: Mapped[str]
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    created: Mapped[int]
    through: Mapped[str] = mapped_column(String(36), default="", server_default="")
    """The process server that follows it; empty: each configuration server does. ``certificate`` is empty then."""
    product: Mapped[str] = mapped_column(default="")
    state: Mapped[str] = mapped_column(String(16), default="connecting")
    since: Mapped[int] = mapped_column(default=0)
    seen: Mapped[int] = mapped_column(default=0)
    trouble: Mapped[str] = mapped_column(default="")
    remedy: Mapped[str] = mapped_column(default="")


class VmwareMachineRow(Base):
    """A machine that discovery found. ``facts`` is a farshore.api_types.vmware.VmwareMachine."""

    __tablename__ = "vmware_machines"
    server: Mapped[str] = mapped_column(ForeignKey("vmware_servers.name", ondelete="CASCADE"), primary_key=True)
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    uuid: Mapped[str]
    facts: Mapped[JsonObject]
    changed: Mapped[int]


class VmwarePlaceRow(Base):
    """A host, datastore, network or folder that discovery found. ``facts`` is a VmwarePlace."""

    __tablename__ = "vmware_places"
    server: Mapped[str] = mapped_column(ForeignKey("vmware_servers.name", ondelete="CASCADE"), primary_key=True)
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str]
    facts: Mapped[JsonObject]
    changed: Mapped[int]


class HostKeyRow(Base):
    """The SSH host key that a host showed at first contact."""

    __tablename__ = "host_keys"
    host: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    seen: Mapped[int]
