"""The evidence of a failover, as its record keeps it: the measured RPO and RTO, its checks, a screenshot.

Steps add to it as they go; repeating a step writes the same again. The screenshot is a file, as is the console's text.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from farshore.api_types.checks import Evidence
from farshore.catalog.tables import FailoverRow
from farshore.model.errors import FarshoreError
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.sites.port import HasScreen, RecoverySite

log = logging.getLogger(__name__)


def evidence_of(row: FailoverRow) -> Evidence:
    """Return the evidence so far."""
    return Evidence.model_validate(row.evidence or {})


def add_evidence(row: FailoverRow, **found: Any) -> None:
    """Store evidence in the record, in the caller's transaction."""
    changed = evidence_of(row).model_copy(update=found)
    row.evidence = Evidence.model_validate(changed.model_dump()).model_dump(mode="json")


def keep_screen(context: RecoveryContext, failover: str, site: RecoverySite, *, anew: bool) -> None:
    """Keep a screenshot of the machine, if its site can take one. ``anew``: replace an earlier one.

    A failover never fails because of it: a machine that does not run, or a full disk, is ignored."""
    kept = _kept(context, failover)
    if not isinstance(site, HasScreen) or (kept.exists() and not anew):
        return
    made = kept.with_suffix(".new")
    try:
        picture = site.screen(failover_id(failover))
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made.write_bytes(picture)
        made.replace(kept)
    except (FarshoreError, OSError) as error:
        log.info("No screenshot of failover %s is kept: %s", failover, error)
        made.unlink(missing_ok=True)


def screen_of(context: RecoveryContext, failover: str) -> bytes:
    """Return the stored screenshot, a PNG image; empty if there is none."""
    try:
        return _kept(context, failover).read_bytes()
    except FileNotFoundError:
        return b""


def drop_screen(context: RecoveryContext, failover: str) -> None:
    """Delete the screenshot of a failover whose record is deleted."""
    _kept(context, failover).unlink(missing_ok=True)


def _kept(context: RecoveryContext, failover: str) -> Path:
    return context.folder.absolute() / "screens" / f"{failover_id(failover)}.png"
