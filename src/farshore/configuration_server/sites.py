"""Open the recovery sites that the catalog knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from farshore.catalog.database import Catalog
from farshore.catalog.tables import SiteRow
from farshore.configuration_server.sealing import SecretSealer
from farshore.recovery.lost_sites import opened
from farshore.sites.port import RecoverySite
from farshore.sites.registry import SiteConfiguration, open_site


@dataclass(frozen=True)
class OpenSites:
    """Each site keeps its files in its own folder below ``folder``."""

    catalog: Catalog
    sealer: SecretSealer
    folder: Path

    def __call__(self, site: str) -> RecoverySite:
        """Return the site with this id, or a LostSite in its place. Raises NotFound, and WrongKey for a secret that
        was sealed with another key."""
        return opened(self.catalog, site, self._open)

    def _open(self, row: SiteRow) -> RecoverySite:
        secret = self.sealer.open(sealed_as(row), row.secret) if row.secret else b""
        return open_site(SiteConfiguration(row.id, row.kind, row.settings, secret), self.folder / row.id)


def sealed_as(row: SiteRow) -> str:
    """Return the name that a site's secret is sealed under."""
    return f"site/{row.id}"
