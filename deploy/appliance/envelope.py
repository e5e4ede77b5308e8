"""The OVF envelope of the appliance, which describes the machine to a vSphere import (DMTF DSP0243 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as Xml

OVF = "http://schemas.dmtf.org/ovf/envelope/1"
RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
VSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
VMW = "http://www.vmware.com/schema/ovf"
STREAM = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
NETWORK = "VM Network"
PROCESSORS, MEMORY_MIB = 2, 8192
_DEBIAN_64 = "96"
"""CIM_OperatingSystem.OSType."""
_HARDWARE = "vmx-13"
"""vSphere 6.5, the oldest that docs/operate/vmware.md names."""
_GIB = 1 << 30

for _prefix, _uri in (("ovf", OVF), ("rasd", RASD), ("vssd", VSSD), ("vmw", VMW)):
    Xml.register_namespace(_prefix, _uri)


@dataclass(frozen=True)
class Appliance:
    """``disk`` is the name of its VMDK file, ``disk_file_bytes`` that file's size, ``disk_bytes`` what it unpacks to: a
    multiple of a GiB."""

    version: str
    disk: str
    disk_file_bytes: int
    disk_bytes: int


def envelope(appliance: Appliance) -> bytes:
    """Return the OVF descriptor."""
    root = Xml.Element(_of(OVF, "Envelope"))
    references = _add(root, OVF, "References")
    size = str(appliance.disk_file_bytes)
    _add(references, OVF, "File", attributes={"id": "file1", "href": appliance.disk, "size": size})
    disks = _section(root, "DiskSection", "Disks of the machine")
    capacity = {"capacity": str(appliance.disk_bytes // _GIB), "capacityAllocationUnits": "byte * 2^30"}
    _add(disks, OVF, "Disk", attributes={"diskId": "disk1", "fileRef": "file1", "format": STREAM, **capacity})
    networks = _section(root, "NetworkSection", "Networks that are chosen at the import")
    network = _add(networks, OVF, "Network", attributes={"name": NETWORK})
    _add(network, OVF, "Description", "Reaches the protected machines, the object store and vCenter")
    _system(root, appliance)
    Xml.indent(root)
    text: bytes = Xml.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _system(root: Xml.Element, appliance: Appliance) -> None:
    system = _section(root, "VirtualSystem", "A whole Farshore installation", {"id": "farshore"})
    _add(system, OVF, "Name", "farshore")
    guest = _section(system, "OperatingSystemSection", "The guest's system", {"id": _DEBIAN_64})
    guest.set(_of(VMW, "osType"), "debian10_64Guest")
    _add(guest, OVF, "Description", "Debian GNU/Linux, 64 bits")
    product = _section(system, "ProductSection", "The product")
    _add(product, OVF, "Product", "Farshore")
    _add(product, OVF, "Version", appliance.version)
    hardware = _section(system, "VirtualHardwareSection", "Virtual hardware")
    described = _add(hardware, OVF, "System")
    for name, text in (
        ("ElementName", "Virtual hardware family"),
        ("InstanceID", "0"),
        ("VirtualSystemIdentifier", "farshore"),
        ("VirtualSystemType", _HARDWARE),
    ):
        _add(described, VSSD, name, text)
    for item in _items():
        element = _add(hardware, OVF, "Item")
        for name in sorted(item):  # the schema's order is the alphabet's
            _add(element, RASD, name, item[name])
    _add_vmware(hardware, "Config", "firmware", "bios")
    # By which the machine knows disks that are hung on it: the site setting `proxy`.
    _add_vmware(hardware, "ExtraConfig", "disk.EnableUUID", "TRUE")


def _items() -> list[dict[str, str]]:
    """Processors, memory, a controller with the disk, a network card; ResourceType as CIM numbers them."""
    return [
        {
            "ElementName": f"{PROCESSORS} virtual processors",
            "InstanceID": "1",
            "ResourceType": "3",
            "VirtualQuantity": str(PROCESSORS),
            "AllocationUnits": "hertz * 10^6",
        },
        {
            "ElementName": f"{MEMORY_MIB} MiB of memory",
            "InstanceID": "2",
            "ResourceType": "4",
            "VirtualQuantity": str(MEMORY_MIB),
            "AllocationUnits": "byte * 2^20",
        },
        {
            "ElementName": "SCSI controller 0",
            "InstanceID": "3",
            "ResourceType": "6",
            "ResourceSubType": "VirtualSCSI",
            "Address": "0",
        },
        {
            "ElementName": "Hard disk 1",
            "InstanceID": "4",
            "ResourceType": "17",
            "HostResource": "ovf:/disk/disk1",
            "Parent": "3",
            "AddressOnParent": "0",
        },
        {
            "ElementName": "Network adapter 1",
            "InstanceID": "5",
            "ResourceType": "10",
            "ResourceSubType": "VmxNet3",
            "Connection": NETWORK,
            "AddressOnParent": "7",
            "AutomaticAllocation": "true",
        },
    ]


def _add_vmware(hardware: Xml.Element, name: str, key: str, value: str) -> None:
    """A setting of VMware's own. Other products may leave it out."""
    element = _add(hardware, VMW, name, attributes={"required": "false"})
    element.set(_of(VMW, "key"), key)
    element.set(_of(VMW, "value"), value)


def _section(parent: Xml.Element, name: str, info: str, attributes: dict[str, str] | None = None) -> Xml.Element:
    made = _add(parent, OVF, name, attributes=attributes)
    _add(made, OVF, "Info", info)
    return made


def _add(
    parent: Xml.Element, space: str, name: str, text: str = "", attributes: dict[str, str] | None = None
) -> Xml.Element:
    made = Xml.SubElement(parent, _of(space, name), {_of(OVF, key): value for key, value in (attributes or {}).items()})
    if text:
        made.text = text
    return made


def _of(space: str, name: str) -> str:
    return f"{{{space}}}{name}"
