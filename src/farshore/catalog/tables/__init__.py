"""The tables, as typed SQLAlchemy models.

Rows are what queries answer inside a transaction; REST bodies are made of them in the configuration server. Times are
nanoseconds since 1970 UTC, 0 for "not yet". States and kinds are stored by their public text. A change here needs a
migration in ``migrations/versions``; a test compares the two.
"""

from __future__ import annotations

from farshore.catalog.tables.access import CertificateRow, KeyGrantRow, SecretRow, TokenRow, UserRow
from farshore.catalog.tables.alerts import AlertChannelRow, AlertNoticeRow, AlertRow
from farshore.catalog.tables.base import Base, JsonObject, RowNumber
from farshore.catalog.tables.commands import CommandRow, GuestScriptRow
from farshore.catalog.tables.failovers import FailoverRow, SiteRow
from farshore.catalog.tables.machines import MachineRow, PolicyRow
from farshore.catalog.tables.pushes import HostKeyRow, PushAccountRow, PushRow
from farshore.catalog.tables.records import AuditRow, EventRow, InstallationRow
from farshore.catalog.tables.servers import ErrandRow, MasterTargetRow, ProcessServerRow
from farshore.catalog.tables.streams import DifferenceRow, EpochRow, PointRow
from farshore.catalog.tables.vmware import VmwareMachineRow, VmwarePlaceRow, VmwareServerRow

__all__ = [
    "AlertChannelRow",
    "AlertNoticeRow",
    "AlertRow",
    "AuditRow",
    "Base",
    "CertificateRow",
    "CommandRow",
    "DifferenceRow",
    "EpochRow",
    "ErrandRow",
    "EventRow",
    "FailoverRow",
    "GuestScriptRow",
    "HostKeyRow",
    "InstallationRow",
    "JsonObject",
    "KeyGrantRow",
    "MachineRow",
    "MasterTargetRow",
    "PointRow",
    "PolicyRow",
    "ProcessServerRow",
    "PushAccountRow",
    "PushRow",
    "RowNumber",
    "SecretRow",
    "SiteRow",
    "TokenRow",
    "UserRow",
    "VmwareMachineRow",
    "VmwarePlaceRow",
    "VmwareServerRow",
]
