"""The console output of recovered machines: read from the site, and kept beside the record once the machine is gone."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from farshore.model.errors import Unsupported
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.sites.port import HasConsole, RecoverySite

log = logging.getLogger(__name__)


def keep(context: RecoveryContext, failover: str, site: RecoverySite) -> None:
    """Keep the text of a machine that will be removed. If the site has none, an earlier copy is kept.

    If there is no space for it, the machine is removed all the same."""
    if not isinstance(site, HasConsole):
        return
    kept = _kept(context, failover)
    made = kept.with_suffix(".new")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with site.console(failover_id(failover)).open("rb") as source, made.open("wb") as target:
            shutil.copyfileobj(source, target)
        made.replace(kept)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("The console output of failover %s cannot be stored (%s).", failover, error.strerror)
        made.unlink(missing_ok=True)


def newest(context: RecoveryContext, failover: str, site: RecoverySite, most: int) -> tuple[bytes, int]:
    """Return the newest ``most`` bytes, and the total number of bytes. Raises Unsupported if the site keeps none."""
    places = [_kept(context, failover)]
    if isinstance(site, HasConsole):
        places.insert(0, site.console(failover_id(failover)))
    elif not places[0].exists():
        raise Unsupported(
            f"The site {site.name} keeps no console output.", remedy="Inspect the machine with the site's own tools."
        )
    for place in places:
        try:
            with place.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - most))
                return file.read(most), size
        except FileNotFoundError:
            continue
    return b"", 0


def text(context: RecoveryContext, failover: str, site: RecoverySite, most: int = 1 << 18) -> str:
    """Return the newest text; empty if there is none."""
    try:
        return newest(context, failover, site, most)[0].decode("utf-8", "replace")
    except (Unsupported, OSError):
        return ""


def drop(context: RecoveryContext, failover: str) -> None:
    """Delete the text of a failover whose record is deleted."""
    _kept(context, failover).unlink(missing_ok=True)


def _kept(context: RecoveryContext, failover: str) -> Path:
    return context.folder.absolute() / "consoles" / f"{failover_id(failover)}.log"
