"""The bodies of requests for a temporary process server. Pure."""

from __future__ import annotations

import base64
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from farshore.sites.azure.documents import rule
from farshore.sites.azure.names import MARK, server_name, server_tags
from farshore.sites.azure.settings import AzureSettings
from farshore.sites.azure.sizes import Size
from farshore.sites.port import FailoverId, ServerOrder

Body = dict[str, Any]
PORT = 9443
"""Where agents reach a process server."""
_LAST = 4000
_USER = "farshore"
_DISK_GIB = 32


def security_group(settings: AzureSettings, failover: FailoverId) -> Body:
    """Nothing comes in but streams from the virtual network; what goes out is as Azure has it."""
    rules = [
        rule("streams", "Inbound", 200, "Allow", sources=["VirtualNetwork"], ports=[str(PORT)]),
        rule("nothing-else", "Inbound", _LAST, "Deny"),
    ]
    return {"location": settings.region, "tags": server_tags(failover), "properties": {"securityRules": rules}}


def public_address(settings: AzureSettings, failover: FailoverId) -> Body:
    """A way out to the Internet."""
    body: Body = {
        "location": settings.region,
        "tags": server_tags(failover),
        "sku": {"name": "Standard"},
        "properties": {"publicIPAllocationMethod": "Static"},
    }
    return _in_zone(settings, body)


def card(settings: AzureSettings, failover: FailoverId, subnet: str, group: str, public: str) -> Body:
    """Its network interface; all but ``failover`` are ids, ``public`` may be empty."""
    configuration: Body = {"subnet": {"id": subnet}, "privateIPAllocationMethod": "Dynamic"}
    if public:
        configuration["publicIPAddress"] = {"id": public}
    properties = {
        "networkSecurityGroup": {"id": group},
        "ipConfigurations": [{"name": "first", "properties": configuration}],
    }
    return {"location": settings.region, "tags": server_tags(failover), "properties": properties}


def machine(settings: AzureSettings, order: ServerOrder, size: Size, card_id: str) -> Body:
    """The virtual machine. Its disk goes with it. Nobody can log in: the key's other half was thrown away."""
    properties: Body = {
        "hardwareProfile": {"vmSize": size.name},
        "storageProfile": {
            "imageReference": _image(settings.process_server_image),
            "osDisk": {
                "name": server_name(order.failover, "os"),
                "createOption": "FromImage",
                "deleteOption": "Delete",
                "diskSizeGB": _DISK_GIB,
                "managedDisk": {"storageAccountType": settings.sku},
            },
        },
        "osProfile": {
            "computerName": "farshore-ps",
            "adminUsername": _USER,
            "customData": base64.b64encode(order.user_data.encode()).decode(),
            "linuxConfiguration": {
                "disablePasswordAuthentication": True,
                "ssh": {"publicKeys": [{"path": f"/home/{_USER}/.ssh/authorized_keys", "keyData": _nobodys_key()}]},
            },
        },
        "networkProfile": {
            "networkInterfaces": [{"id": card_id, "properties": {"primary": True, "deleteOption": "Detach"}}]
        },
        "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
    }
    tags = {**server_tags(order.failover), MARK: order.mark}
    body: Body = {"location": settings.region, "tags": tags, "properties": properties}
    if settings.process_server_identity:
        base = f"/subscriptions/{settings.subscription}/resourceGroups/{settings.resource_group}"
        named = f"{base}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{settings.process_server_identity}"
        body["identity"] = {"type": "UserAssigned", "userAssignedIdentities": {named: {}}}
    return _in_zone(settings, body)


def _in_zone(settings: AzureSettings, body: Body) -> Body:
    return {**body, "zones": [settings.zone]} if settings.zone else body


def _image(chosen: str) -> Body:
    if chosen.startswith("/"):
        return {"id": chosen}
    publisher, offer, sku, version = chosen.split(":")
    return {"publisher": publisher, "offer": offer, "sku": sku, "version": version}


def _nobodys_key() -> str:
    """Azure makes no Linux machine without a key or a password."""
    public = rsa.generate_private_key(65537, 2048).public_key()
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
