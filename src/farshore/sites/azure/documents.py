"""The bodies of requests: what each resource of a recovered machine is to be. Pure.

They use what the pinned api-versions know; tests hold each against the SDK's own types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farshore.sites.azure.names import FAILOVER, NETWORK, tags_of
from farshore.sites.azure.networks import Network, subnet_name
from farshore.sites.azure.settings import AzureSettings
from farshore.sites.azure.sizes import Size
from farshore.sites.port import AttachedDisk, FailoverId, RecoveryOrder, UploadedDisk

Body = dict[str, Any]
_LAST = 4000
"""Priority of the rules that close what no other rule opens; Azure's own begin at 65000."""


@dataclass(frozen=True)
class CardPlace:
    """Where a card is: ids of its subnet and its security group; ``address`` empty: Azure chooses; ``public``: the id
    of its public address."""

    subnet: str
    group: str
    address: str = ""
    public: str = ""


def disk(settings: AzureSettings, failover: FailoverId, name: str, size: int, generation: str, *, boot: bool) -> Body:
    """A managed disk that is uploaded to; ``size`` in bytes with the footer."""
    properties: Body = {"creationData": {"createOption": "Upload", "uploadSizeBytes": size}}
    if boot:
        properties |= {"osType": "Linux", "hyperVGeneration": generation}
    body: Body = {
        "location": settings.region,
        "sku": {"name": settings.sku},
        "tags": {FAILOVER: failover, "farshore-machine": name[:256]},
        "properties": properties,
    }
    if settings.zone and not settings.sku.endswith("_ZRS"):
        body["zones"] = [settings.zone]
    return body


def security_group(settings: AzureSettings, order: RecoveryOrder, *, closed: bool) -> Body:
    """What may go in and out. ``closed``: nothing but between the machines of a shared test network, and what is
    forwarded."""
    rules = []
    ports = sorted({str(port) for port in order.forward.values()})
    sources = [prefix for prefix in settings.reached_from.split(",") if prefix]
    if settings.public_address and ports and sources:
        rules.append(rule("forwarded", "Inbound", 200, "Allow", sources=sources, ports=ports))
    if closed:
        if order.bubble:
            rules += [
                rule(f"within-{way.lower()}", way, 300, "Allow", sources=["VirtualNetwork"], to="VirtualNetwork")
                for way in ("Inbound", "Outbound")
            ]
        rules += [rule(f"nothing-{way.lower()}", way, _LAST, "Deny") for way in ("Inbound", "Outbound")]
    return {"location": settings.region, "tags": tags_of(order), "properties": {"securityRules": rules}}


def rule(
    name: str,
    way: str,
    priority: int,
    access: str,
    *,
    sources: Sequence[str] = ("*",),
    to: str = "*",
    ports: Sequence[str] = ("*",),
) -> Body:
    """A rule of a security group."""
    properties: Body = {
        "direction": way,
        "priority": priority,
        "access": access,
        "protocol": "*" if ports == ("*",) else "Tcp",
        "sourcePortRange": "*",
        "destinationAddressPrefix": to,
    }
    # Azure takes one of the two: a single value, or a list.
    properties |= {"sourceAddressPrefix": sources[0]} if len(sources) == 1 else {"sourceAddressPrefixes": list(sources)}
    properties |= {"destinationPortRange": ports[0]} if len(ports) == 1 else {"destinationPortRanges": list(ports)}
    return {"name": name, "properties": properties}


def test_network(settings: AzureSettings, order: RecoveryOrder, subnets: Sequence[Network]) -> Body:
    """An isolated network: joined to no other, and without Azure's default way out."""
    tags = {NETWORK: order.bubble} if order.bubble else tags_of(order)
    return {
        "location": settings.region,
        "tags": tags,
        "properties": {
            "addressSpace": {"addressPrefixes": [str(one) for one in subnets]},
            "subnets": [
                {
                    "name": subnet_name(one),
                    "properties": {"addressPrefix": str(one), "defaultOutboundAccess": False},
                }
                for one in subnets
            ],
        },
    }


def public_address(settings: AzureSettings, order: RecoveryOrder) -> Body:
    """A public address."""
    body: Body = {
        "location": settings.region,
        "tags": tags_of(order),
        "sku": {"name": "Standard"},
        "properties": {"publicIPAllocationMethod": "Static"},
    }
    if settings.zone:
        body["zones"] = [settings.zone]
    return body


def card(settings: AzureSettings, order: RecoveryOrder, place: CardPlace) -> Body:
    """A network interface."""
    configuration: Body = {
        "subnet": {"id": place.subnet},
        "privateIPAllocationMethod": "Static" if place.address else "Dynamic",
    }
    if place.address:
        configuration["privateIPAddress"] = place.address
    if place.public:
        configuration["publicIPAddress"] = {"id": place.public}
    return {
        "location": settings.region,
        "tags": tags_of(order),
        "properties": {
            "networkSecurityGroup": {"id": place.group},
            "ipConfigurations": [{"name": "first", "properties": configuration}],
        },
    }


def machine(
    settings: AzureSettings, order: RecoveryOrder, size: Size, cards: Sequence[str], availability_set: str
) -> Body:
    """The virtual machine, on its disks and cards (ids). It starts when it is made."""
    boot = next((disk for disk in order.disks if disk.boot), order.disks[0])
    others = [disk for disk in order.disks if disk is not boot]
    properties: Body = {
        "hardwareProfile": {"vmSize": size.name},
        "storageProfile": {
            "osDisk": {"osType": "Linux", "createOption": "Attach", **_attached(boot)},
            "dataDisks": [{"lun": lun, "createOption": "Attach", **_attached(disk)} for lun, disk in enumerate(others)],
        },
        "networkProfile": {
            "networkInterfaces": [
                {"id": one, "properties": {"primary": number == 0, "deleteOption": "Detach"}}
                for number, one in enumerate(cards)
            ]
        },
        "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
    }
    if availability_set:
        properties["availabilitySet"] = {"id": availability_set}
    body: Body = {"location": settings.region, "tags": tags_of(order), "properties": properties}
    if settings.zone and not availability_set:
        body["zones"] = [settings.zone]
    return body


def _attached(disk: AttachedDisk) -> Mapping[str, Any]:
    medium = disk.medium
    assert isinstance(medium, UploadedDisk)
    return {"deleteOption": "Detach", "managedDisk": {"id": medium.id}}
