"""Routes for recovery sites."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from farshore.api_types.jobs import Job
from farshore.api_types.sites import Site, SiteCheck, SiteFinding, SiteInspection, SiteRequest
from farshore.catalog import events, sites
from farshore.catalog.change_details import Details, gone, made
from farshore.catalog.database import Transaction
from farshore.catalog.tables import SiteRow
from farshore.configuration_server.api import views
from farshore.configuration_server.api.parameters import Named, Wanted
from farshore.configuration_server.identity import Identity
from farshore.configuration_server.services import Services
from farshore.configuration_server.sites import sealed_as
from farshore.configuration_server.web.callers import Contributor, Installation, Operator, Reader
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.errors import Unsupported
from farshore.recovery import lost_sites
from farshore.recovery.lost_sites import SITE_FOUND
from farshore.sites.lost import LostSite
from farshore.sites.port import Inspected
from farshore.sites.registry import check_settings

router = GatedRouter(prefix="/v1/sites", tags=["sites"])


@router.get("")
def list_sites(_user: Reader, installation: Installation) -> list[Site]:
    """Return all recovery sites."""
    with installation.catalog.reading() as tx:
        present = sites.failovers_at(tx)
        return [views.site(row, present.get(row.id, 0)) for row in sites.every(tx)]


@router.post("", status_code=201)
def add_site(request: SiteRequest, user: Contributor, installation: Installation) -> Site:
    """Create a recovery site. Its secret is stored encrypted, and never returned."""
    secret = request.secret.get_secret_value().encode()
    settings = check_settings(request.kind, request.settings, with_secret=bool(secret))
    row = SiteRow(id=request.id, kind=request.kind, settings=settings, created=installation.clock.now())
    row.secret = installation.sealer.seal(sealed_as(row), secret) if secret else b""
    with installation.catalog.writing() as tx:
        sites.add(tx, row)
        _tell(tx, installation, user, "site.added", row.id, f"was added ({row.kind})", made(_values(row)))
        return views.site(row, 0)


@router.get("/{site}")
def show_site(site: Named, _user: Reader, installation: Installation) -> Site:
    """Return one recovery site."""
    with installation.catalog.reading() as tx:
        row = sites.get(tx, site)
        return views.site(row, sites.failovers_at(tx).get(row.id, 0))


@router.post("/{site}/check")
def check_site(site: Named, _user: Operator, installation: Installation, machine: Wanted = None) -> SiteCheck:
    """Check the state of a site, and whether all protected machines whose target it is could come up there at once; or
    only ``machine`` (name or id), whatever its target. Orders nothing."""
    return installation.readiness.check_site(site, machine)


@router.post("/{site}/inspection")
def inspect_site(site: Named, _user: Operator, installation: Installation) -> SiteInspection:
    """Examine each thing that a site needs from its provider, and say how to create what is missing. Changes
    nothing."""
    found = installation.recovery.site(site)
    if isinstance(found, LostSite):
        raise found.refusal()
    if not isinstance(found, Inspected):
        raise Unsupported(f"{site} needs nothing of a provider.", remedy=f"farshore site check {site}")
    findings = [SiteFinding(**asdict(one)) for one in found.inspect()]
    return SiteInspection(findings=findings, template=found.template())


@router.post("/{site}/lost")
def declare_lost(site: Named, user: Contributor, installation: Installation) -> Site:
    """Declare that a site is gone and none of its machines runs. It is not asked any more: its machines may be brought
    up elsewhere."""
    with installation.catalog.writing() as tx:
        lost_sites.declare_lost(tx, site, now=installation.clock.now(), actor=user.actor)
        return views.site(sites.get(tx, site), sites.failovers_at(tx).get(site, 0))


@router.post("/{site}/found", status_code=202)
def declare_found(site: Named, user: Contributor, installation: Installation) -> Job:
    """Take a lost site back: what was given up there is removed first."""
    with installation.catalog.reading() as tx:
        lost_sites.check_lost(tx, site)
    return installation.jobs.start(SITE_FOUND, {"subject": f"site/{site}", "site": site, "actor": user.actor})


@router.delete("/{site}", status_code=204)
def remove_site(site: Named, user: Contributor, installation: Installation) -> None:
    """Delete a recovery site that has nothing any longer."""
    with installation.catalog.writing() as tx:
        row = sites.get(tx, site)
        details = gone(_values(row))
        sites.remove(tx, row)
        _tell(tx, installation, user, "site.removed", site, "was removed", details)


def _values(row: SiteRow) -> dict[str, Any]:
    """Return what may be shown of a site: everything except its secret."""
    return {"kind": row.kind, "settings": row.settings, "secret": "sealed" if row.secret else "none"}


def _tell(
    tx: Transaction, installation: Services, user: Identity, kind: str, site: str, what: str, detail: Details
) -> None:
    events.record(
        tx,
        time=installation.clock.now(),
        kind=kind,
        actor=user.actor,
        subject=f"site/{site}",
        message=f"Recovery site {site} {what}.",
        detail=detail,
    )
