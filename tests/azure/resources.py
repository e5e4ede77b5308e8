"""What Resource Manager knows, and its rules: what may be made, changed, deleted when. Disks are blobs of Azurite."""

from __future__ import annotations

import base64
import copy
import ipaddress
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.azure.faults import Fault
from tests.contract.page_blobs import Blobs

Resource = dict[str, Any]
MIB = 1 << 20
RESERVED = 4
"""Addresses at the start of each subnet that are Azure's."""
SIZES = {
    # cores, memory in GiB, cards, data disks, generations
    "Standard_B1s": (1, 1, 2, 2, "V1,V2"),
    "Standard_D2s_v5": (2, 8, 2, 4, "V1,V2"),
    "Standard_D4s_v5": (4, 16, 2, 8, "V1,V2"),
    "Standard_D8s_v5": (8, 32, 4, 16, "V1,V2"),
    "Standard_DC2s_v3": (2, 16, 2, 4, "V2"),
}


@dataclass
class Operation:
    """A long one: it has ended when somebody has looked ``left`` times, at it or at what it changes."""

    path: str
    left: int
    end: Callable[[], None]
    result: Any = None
    error: dict[str, str] | None = None
    done: bool = False

    def look(self) -> None:
        if not self.done:
            self.left -= 1
            if self.left <= 0:
                self.done = True
                if self.error is None:
                    self.end()


@dataclass
class Resources:
    """By path, in lower case. ``looks``: how long an operation takes."""

    blobs: Blobs
    looks: int = 2
    cores: int = 100
    """The subscription's quota in the region."""
    held: dict[str, Resource] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    once: dict[str, Resource] = field(default_factory=dict)
    """By path of a machine: what its osProfile held that is never shown."""
    lag: dict[str, int] = field(default_factory=dict)
    """By a part of a path: how often a new resource of it is not found yet."""

    def get(self, path: str) -> Resource:
        """A copy of one that exists. Raises Fault."""
        self.look(path)
        found = self.held.get(path.lower())
        for part, left in self.lag.items():
            if found is not None and part in path and left > 0:
                self.lag[part] = left - 1
                found = None
        if found is None:
            raise Fault(404, "ResourceNotFound", f"The resource {path} was not found.")
        return copy.deepcopy(found)

    def look(self, path: str) -> None:
        """Let what is under way there come nearer to its end."""
        for one in list(self.operations.values()):
            if one.path == path.lower():
                one.look()

    def busy(self, path: str) -> bool:
        return any(one.path == path.lower() and not one.done for one in self.operations.values())

    def of(self, kind: str) -> Iterator[tuple[str, Resource]]:
        for path, resource in list(self.held.items()):
            if f"/{kind.lower()}/" in path and "/subnets/" not in path:
                yield path, resource

    def referred(self, reference: Any, code: str = "InvalidResourceReference") -> Resource:
        """What another resource is to refer to. Raises Fault."""
        path = str((reference or {}).get("id", "")).lower()
        if path not in self.held:
            raise Fault(400, code, f"The resource {path} is not there.")
        return self.held[path]

    def begin(self, path: str, end: Callable[[], None], result: Any = None, *, fails: bool = False) -> str:
        """Begin an operation; its number."""
        number = uuid.uuid4().hex
        error = {"code": "AllocationFailed", "message": "There is no capacity for it."} if fails else None
        self.operations[number] = Operation(path.lower(), self.looks, end, result, error)
        return number


def put_disk(known: Resources, path: str, body: Resource) -> None:
    """Managed disks."""
    if path in known.held:
        body["properties"] = known.held[path]["properties"]
        return
    properties = body["properties"]
    size = properties["creationData"].get("uploadSizeBytes", 0)
    if properties["creationData"]["createOption"] != "Upload" or (size - 512) % MIB or size < 20 * MIB + 512:
        raise Fault(400, "InvalidParameter", "uploadSizeBytes must be whole MiB, at least 20, and a footer.")
    if "osType" in properties and properties.get("hyperVGeneration") not in ("V1", "V2"):
        raise Fault(400, "InvalidParameter", "hyperVGeneration")
    unique = str(uuid.uuid4())
    properties |= {"diskState": "ReadyToUpload", "diskSizeBytes": size - 512, "uniqueId": unique}


def put_network(known: Resources, path: str, body: Resource) -> None:
    """Virtual networks."""
    spaces = [ipaddress.ip_network(one) for one in body["properties"]["addressSpace"]["addressPrefixes"]]
    for subnet in body["properties"].get("subnets", []):
        properties = subnet["properties"]
        prefix = ipaddress.ip_network(properties["addressPrefix"])
        if prefix.prefixlen > 29 or not any(prefix.subnet_of(space) for space in spaces):
            raise Fault(400, "NetcfgSubnetRangeOutsideVnet", str(prefix))
        subnet["id"] = f"{path}/subnets/{subnet['name']}"
        known.held[subnet["id"].lower()] = subnet


def put_card(known: Resources, path: str, body: Resource) -> None:
    """Network interfaces."""
    properties = body["properties"]
    if properties.get("networkSecurityGroup"):
        known.referred(properties["networkSecurityGroup"])
    primary = [one["properties"] for one in properties["ipConfigurations"]]
    if len(primary) > 1 and sum(bool(one.get("primary")) for one in primary) != 1:
        raise Fault(400, "InvalidRequestFormat", "One configuration is the primary one.")
    for one in primary:
        subnet = known.referred(one["subnet"])
        if one.get("publicIPAddress"):
            known.referred(one["publicIPAddress"])
        prefix = ipaddress.ip_network(subnet["properties"]["addressPrefix"])
        taken = {
            other["properties"]["privateIPAddress"]
            for where, card in known.of("networkInterfaces")
            if where != path
            for other in card["properties"]["ipConfigurations"]
            if other["properties"]["subnet"]["id"].lower() == one["subnet"]["id"].lower()
        }
        usable = [str(host) for host in list(prefix.hosts())[RESERVED - 1 : RESERVED + 60] if str(host) not in taken]
        if one.get("privateIPAllocationMethod") == "Static":
            address = ipaddress.ip_address(one["privateIPAddress"])
            if address not in prefix or int(address) - int(prefix.network_address) < RESERVED:
                raise Fault(400, "PrivateIPAddressNotInSubnet", str(address))
            if str(address) in taken:
                raise Fault(400, "PrivateIPAddressInUse", str(address))
        else:
            one["privateIPAddress"] = usable[0]
    properties["macAddress"] = "00-0D-3A-00-00-01"
    if path in known.held and known.held[path]["properties"].get("virtualMachine"):
        properties["virtualMachine"] = known.held[path]["properties"]["virtualMachine"]


def put_group(known: Resources, path: str, body: Resource) -> None:
    """Network security groups: a priority is taken once in each direction."""
    rules = [one["properties"] for one in body["properties"].get("securityRules", [])]
    places = [(one["direction"], one["priority"]) for one in rules]
    if len(places) != len(set(places)) or not all(100 <= one["priority"] <= 4096 for one in rules):
        raise Fault(400, "SecurityRuleInvalidPriority")


def put_public_address(known: Resources, path: str, body: Resource) -> None:
    """Public addresses."""
    body["properties"].setdefault("ipAddress", "203.0.113.7")


_ONCE = ("customData", "adminPassword")
"""Parts of an osProfile that are taken and never shown again."""


def disk_from_image(known: Resources, path: str, body: Resource, before: Resource | None) -> None:
    """The disk of a machine that starts from an image, as of when it is made: an osProfile cannot be changed."""
    properties = body["properties"]
    storage, profile = properties["storageProfile"], properties.get("osProfile") or {}
    image = storage.get("imageReference") or {}
    if not image.get("id") and not all(image.get(part) for part in ("publisher", "offer", "sku", "version")):
        raise Fault(400, "InvalidParameter", "imageReference")
    linux = profile.get("linuxConfiguration") or {}
    keys = [one["keyData"].split()[0] for one in (linux.get("ssh") or {}).get("publicKeys", [])]
    if not profile.get("adminUsername") or not profile.get("computerName"):
        raise Fault(400, "InvalidParameter", "osProfile")
    if not profile.get("adminPassword") and not (linux.get("disablePasswordAuthentication") and keys):
        raise Fault(400, "InvalidParameter", "A Linux machine has a key or a password.")
    if set(keys) - {"ssh-rsa", "ssh-ed25519"}:
        raise Fault(400, "InvalidParameter", "keyData")
    try:
        data = base64.b64decode(profile.get("customData", ""), validate=True)
    except ValueError as error:
        raise Fault(400, "InvalidParameter", "Custom data must be Base64.") from error
    if len(data) > 64 << 10:
        raise Fault(400, "InvalidParameter", "Custom data is too long.")
    if before is not None:
        if any(known.once[path].get(name) != profile.get(name) for name in _ONCE):
            raise Fault(409, "PropertyChangeNotAllowed", "Changing osProfile.customData is not allowed.")
        body["properties"]["storageProfile"] = before["properties"]["storageProfile"]
    else:
        known.once[path] = {name: profile.get(name) for name in _ONCE}
        where = f"{path.rpartition('/providers/')[0]}/providers/microsoft.compute/disks/{storage['osDisk']['name']}"
        if where in known.held:
            raise Fault(409, "Conflict", "There is a disk of that name.")
        made = {"diskState": "Unattached", "diskSizeBytes": 32 << 30, "uniqueId": str(uuid.uuid4())}
        made |= {"hyperVGeneration": "V2", "osType": "Linux", "provisioningState": "Succeeded"}
        name, location = storage["osDisk"]["name"], body["location"]
        known.held[where.lower()] = {
            "id": where,
            "name": name,
            "location": location,
            "type": "Microsoft.Compute/disks",
            "properties": made,
        }
        storage["osDisk"]["managedDisk"]["id"] = where.lower()
    for name in _ONCE:
        profile.pop(name, None)


def put_machine(known: Resources, path: str, body: Resource) -> None:
    """Virtual machines. The power is ours, not the API's: it is shown as an instance view."""
    properties = body["properties"]
    size = SIZES.get(properties["hardwareProfile"]["vmSize"])
    if size is None:
        raise Fault(400, "InvalidParameter", "The value of parameter vmSize is invalid.")
    before = known.held.get(path)
    used = sum(SIZES[one["properties"]["hardwareProfile"]["vmSize"]][0] for _, one in known.of("virtualMachines"))
    if before is None and used + size[0] > known.cores:
        raise Fault(409, "OperationNotAllowed", "It results in exceeding approved Total Regional Cores quota.")
    storage = properties["storageProfile"]
    data = storage.get("dataDisks", [])
    if storage["osDisk"]["createOption"] == "FromImage":
        disk_from_image(known, path, body, before)
    if len({one["lun"] for one in data}) != len(data) or len(data) > size[3]:
        raise Fault(400, "InvalidParameter", "dataDisks")
    for one in (storage["osDisk"], *data):
        disk = known.referred(one["managedDisk"], "NotFound")
        if disk["properties"]["diskState"] != "Unattached" and disk.get("managedBy") != path:
            raise Fault(409, "OperationNotAllowed", f"The disk is {disk['properties']['diskState']}.")
    os_disk = known.referred(storage["osDisk"]["managedDisk"])["properties"]
    if os_disk.get("hyperVGeneration") not in size[4].split(","):
        raise Fault(400, "BadRequest", "The size cannot boot that generation.")
    cards = [known.referred(one) for one in properties["networkProfile"]["networkInterfaces"]]
    marks = [one.get("properties", {}).get("primary") for one in properties["networkProfile"]["networkInterfaces"]]
    if not 0 < len(cards) <= size[2] or (len(cards) > 1 and marks.count(True) != 1):
        raise Fault(400, "InvalidParameter", "networkInterfaces")
    networks = {
        one["properties"]["subnet"]["id"].lower().partition("/subnets/")[0]
        for card in cards
        for one in card["properties"]["ipConfigurations"]
    }
    owners = {card["properties"].get("virtualMachine", {}).get("id", path).lower() for card in cards}
    if len(networks) != 1 or owners != {path}:
        raise Fault(400, "InvalidParameter", "The cards are in several networks, or another machine's.")
    for one in (storage["osDisk"], *data):
        disk = known.held[one["managedDisk"]["id"].lower()]
        disk["properties"]["diskState"], disk["managedBy"] = "Attached", path
    for card in cards:
        card["properties"]["virtualMachine"] = {"id": path}
    properties["vmId"] = before["properties"]["vmId"] if before else str(uuid.uuid4())
    body["power"] = before["power"] if before and before["power"] != "failed" else "running"


PUT: dict[str, Callable[[Resources, str, Resource], None]] = {
    "disks": put_disk,
    "virtualnetworks": put_network,
    "networkinterfaces": put_card,
    "networksecuritygroups": put_group,
    "publicipaddresses": put_public_address,
    "virtualmachines": put_machine,
}


def delete(known: Resources, kind: str, path: str) -> Callable[[], None]:
    """See that it may be deleted; what is done in the end. Raises Fault."""
    resource = known.held[path]
    cards = list(known.of("networkInterfaces"))
    configurations = [one["properties"] for _, card in cards for one in card["properties"]["ipConfigurations"]]
    if kind == "disks" and resource["properties"]["diskState"] not in ("Unattached", "ReadyToUpload"):
        raise Fault(409, "OperationNotAllowed", f"The disk is {resource['properties']['diskState']}.")
    if kind == "networkinterfaces" and resource["properties"].get("virtualMachine"):
        raise Fault(400, "NicInUse", "A machine has the card.")
    if kind == "virtualnetworks" and any(one["subnet"]["id"].lower().startswith(path) for one in configurations):
        raise Fault(400, "InUseSubnetCannotBeDeleted", "Cards are in it.")
    if kind == "publicipaddresses" and any(
        (one.get("publicIPAddress") or {}).get("id", "").lower() == path for one in configurations
    ):
        raise Fault(400, "PublicIPAddressCannotBeDeleted", "A card has it.")
    if kind == "networksecuritygroups" and any(
        (card["properties"].get("networkSecurityGroup") or {}).get("id", "").lower() == path for _, card in cards
    ):
        raise Fault(400, "InUseNetworkSecurityGroupCannotBeDeleted", "A card has it.")
    resource["properties"]["provisioningState"] = "Deleting"

    def end() -> None:
        known.held.pop(path, None)
        for name in [name for name in known.held if name.startswith(f"{path}/subnets/")]:
            del known.held[name]
        if kind == "virtualmachines":
            known.once.pop(path, None)
            for where, disk in known.of("disks"):
                if disk.get("managedBy") == path:
                    if resource["properties"]["storageProfile"]["osDisk"].get("deleteOption") == "Delete" and (
                        resource["properties"]["storageProfile"]["osDisk"]["managedDisk"]["id"].lower() == where
                    ):
                        del known.held[where]
                        continue
                    disk["properties"]["diskState"] = "Unattached"
                    del disk["managedBy"]
            for _, card in known.of("networkInterfaces"):
                if card["properties"].get("virtualMachine", {}).get("id") == path:
                    del card["properties"]["virtualMachine"]

    return end
