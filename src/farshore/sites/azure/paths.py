"""Over which network the vault's storage account is reached from this host, and what that means.

Replication goes to the account's public endpoint over TLS: through the Internet, or through ExpressRoute with Microsoft
peering. A site-to-site VPN does not carry it: public addresses are not in the tunnel. What a VPN, or ExpressRoute with
private peering, does carry is a private endpoint (private link) of the account, whose name resolves to a private
address here.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from farshore.model.errors import Refused, Unreachable

_SECONDS = 5.0
_VPN = "A site-to-site VPN does not carry public endpoints."

Reach = Callable[[str, int], str]
"""The address that answers at a name and port. Raises OSError."""


def reach(host: str, port: int) -> str:
    """Connect, and say to which address. Raises OSError."""
    with socket.create_connection((host, port), timeout=_SECONDS) as connection:
        return str(connection.getpeername()[0])


def told(account: Mapping[str, Any], connect: Reach) -> str:
    """The path, in words. Raises Refused where the account lets nobody in this way, Unreachable."""
    properties: Mapping[str, Any] = account.get("properties") or {}
    endpoint = urlsplit(str((properties.get("primaryEndpoints") or {}).get("blob", "")))
    host, port = endpoint.hostname or "", endpoint.port or (80 if endpoint.scheme == "http" else 443)
    if not host:
        raise Refused("The account has no blob endpoint.", remedy="Use an account of kind StorageV2.")
    try:
        address = ipaddress.ip_address(connect(host, port))
    except OSError as error:
        raise Unreachable(
            f"{host}, port {port}, does not answer this host: {error}.",
            remedy="Let this host out to it by HTTPS, or give the account a private endpoint in a network that a "
            f"VPN or ExpressRoute reaches, and resolve its name there. {_VPN}",
        ) from error
    if address.is_private:
        return f"{host} is at {address}, a private endpoint: by private link, over VPN or ExpressRoute"
    if properties.get("publicNetworkAccess") == "Disabled":
        raise Refused(
            f"{host} is at {address}, a public address, and the account is closed to those.",
            remedy=f"Resolve its name to its private endpoint here, or: az storage account update "
            f"--name {account.get('name')} --public-network-access Enabled",
        )
    ways = "by the Internet, or by ExpressRoute with Microsoft peering"
    return f"{host} is at {address}, its public endpoint: {ways}. {_VPN}"
