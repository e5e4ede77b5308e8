"""The route of the vault's state."""

from __future__ import annotations

from farshore.api_types.servers import VaultStatus
from farshore.catalog import points
from farshore.configuration_server.web.callers import Installation, Reader
from farshore.configuration_server.web.gate import GatedRouter

router = GatedRouter(prefix="/v1/vault", tags=["vault"])


@router.get("")
def show_vault(_user: Reader, installation: Installation) -> VaultStatus:
    """Return where the vault is, whether it answers, and how many points are indexed."""
    trouble = installation.vault.check()
    with installation.catalog.reading() as tx:
        counts = points.counts(tx)
    return VaultStatus(
        url=installation.vault.url,
        vault=installation.vault.vault_id,
        reachable=not trouble,
        trouble=trouble,
        machines=counts,
    )
