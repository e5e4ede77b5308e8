"""Machines, and the policies that say how they are protected."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, ForeignKey, Index, String, event, inspect
from sqlalchemy.orm import Mapped, Mapper, mapped_column

from farshore.catalog.tables.base import Base, JsonObject


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
    """When its clock was last set, by the server's clock; 0: never, or too long ago for an alert."""
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
