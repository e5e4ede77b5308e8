"""What an Azure site is like, asked before anything is ordered of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from azure.core.exceptions import HttpResponseError

from farshore.model.errors import Refused
from farshore.sites.azure.answers import is_absent
from farshore.sites.azure.clients import Clients
from farshore.sites.azure.settings import AzureSettings

_CORES = "cores"


def examine(clients: Clients, settings: AzureSettings, sizes: int) -> Mapping[str, str]:
    """What there is, by name, for people. ``sizes``: how many the region offers. Raises Refused with the remedy,
    AzureError."""
    disks = _count_disks(clients, settings)
    region = region_of(settings, sizes)
    return {
        "identity": settings.identity,
        "resource group": f"{settings.resource_group}, {disks} disks",
        "region": region,
        "cores": free_cores(clients, settings),
        "virtual network": network_of(clients, settings),
    }


def _count_disks(clients: Clients, settings: AzureSettings) -> int:
    """Also shows that the subscription and the group are there, and are ours to read."""
    try:
        return sum(1 for _ in clients.compute.disks.list_by_resource_group(settings.resource_group))
    except HttpResponseError as error:
        if not is_absent(error):
            raise
        raise Refused(
            f"There is no resource group {settings.resource_group} in the subscription {settings.subscription}.",
            remedy=f"az group create --name {settings.resource_group} --location {settings.region}",
        ) from error


def region_of(settings: AzureSettings, sizes: int) -> str:
    """The region, and how many sizes it offers. Raises Refused where that is none."""
    if not sizes:
        raise Refused(
            f"The region {settings.region} offers the subscription no size.",
            remedy=f"See: az vm list-skus --location {settings.region}. Ask for access to the region, or use another.",
        )
    return f"{settings.region}, {sizes} sizes"


def free_cores(clients: Clients, settings: AzureSettings) -> str:
    """How many of the region's quota are free. Raises Refused where none is."""
    for one in clients.compute.usage.list(settings.region):
        if one.name.value == _CORES:
            if one.current_value >= one.limit:
                raise Refused(
                    f"All {one.limit} cores of the subscription in {settings.region} are in use.",
                    remedy=f"Raise the quota in the portal. See: az vm list-usage --location {settings.region}",
                )
            return f"{one.limit - one.current_value} of {one.limit} free"
    return "no limit is known"


def network_of(clients: Clients, settings: AzureSettings) -> str:
    """The network of the settings, with its subnets. Raises Refused where it is not there."""
    if not settings.virtual_network:
        return "none: machines come up in networks of their own, or on NETWORK/SUBNET"
    try:
        found: Any = clients.network.virtual_networks.get(settings.resource_group, settings.virtual_network)
    except HttpResponseError as error:
        if not is_absent(error):
            raise
        raise Refused(
            f"There is no virtual network {settings.virtual_network} in {settings.resource_group}.",
            remedy=f"az network vnet create --resource-group {settings.resource_group} "
            f"--name {settings.virtual_network} --address-prefixes 10.0.0.0/16",
        ) from error
    subnets = ", ".join(f"{one.name} ({one.properties.address_prefix})" for one in found.properties.subnets or ())
    return f"{settings.virtual_network}: {subnets or 'no subnet'}"
