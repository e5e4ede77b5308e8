"""Routes for the audit log: who changed what, and who was refused."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from farshore.api_types.audit import FIELDS, AuditEntry
from farshore.catalog import audit
from farshore.configuration_server.api.parameters import Place
from farshore.configuration_server.web.callers import Installation, Reader
from farshore.configuration_server.web.gate import GatedRouter

router = GatedRouter(prefix="/v1/audit", tags=["events"])


@router.get("")
def list_audit(
    _user: Reader,
    installation: Installation,
    after: Place = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    newest: bool = False,
) -> list[AuditEntry]:
    """Return entries with an id above ``after``, oldest first; with ``newest`` the last ``limit`` of them. Each has its
    digest and the previous one, so that a reader can check the chain."""
    with installation.catalog.reading() as tx:
        found = audit.listed(tx, after=after, limit=limit, newest=newest)
        return [AuditEntry(**{name: getattr(row, name) for name in (*FIELDS, "previous", "digest")}) for row in found]
