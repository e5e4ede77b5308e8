"""The servers that agents use, and the addresses at which this host reaches them."""

from __future__ import annotations

from urllib.parse import urlsplit

from farshore.catalog import process_servers
from farshore.catalog.database import Catalog
from farshore.configuration_server.settings import Settings

_HTTPS = 443


def agents_servers(
    settings: Settings, catalog: Catalog, process_server: str | None = None
) -> dict[tuple[str, int], tuple[str, int]]:
    """Return, by name and port as agents know them, this server and every process server, or only the one with this id.

    A server with one of this server's own names is on this host: agents may see it at an address that this host does
    not have."""
    found, here = own_server(settings), urlsplit(settings.local_url).hostname or ""
    own = {name for name, _ in found}
    with catalog.reading() as tx:
        every = process_servers.every(tx)
        urls = [row.url for row in every if process_server is None or row.id == process_server]
    for url in urls:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port or _HTTPS
        found[host, port] = (here if host in own else host, port)
    return found


def own_server(settings: Settings) -> dict[tuple[str, int], tuple[str, int]]:
    """Return this server alone, in the same form."""
    here = urlsplit(settings.local_url).hostname or ""
    return {(name.lower(), settings.port): (here, settings.port) for name in settings.names}
