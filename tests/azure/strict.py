"""Bodies of requests held against the types of Azure's SDK: unknown keys, wrong types and missing keys are complaints.

The SDK's models take anything. Its TypedDicts do not, after two repairs: names of enumerations are known to type
checkers only, and a subclass counts all keys as required where those marked ``Required`` are meant.
"""

from __future__ import annotations

import enum
from functools import cache
from types import ModuleType
from typing import Any, get_origin

import azure.mgmt.compute.models
import azure.mgmt.compute.types
import azure.mgmt.network.models
import azure.mgmt.network.types
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import Required

_SDKS = {"microsoft.compute": azure.mgmt.compute, "microsoft.network": azure.mgmt.network}
TYPES = {
    "disks": "Disk",
    "virtualmachines": "VirtualMachine",
    "networkinterfaces": "NetworkInterface",
    "virtualnetworks": "VirtualNetwork",
    "networksecuritygroups": "NetworkSecurityGroup",
    "publicipaddresses": "PublicIPAddress",
}
"""By the kind of resource, in lower case."""


def _repair(sdk: ModuleType) -> None:
    for name, kind in vars(sdk.models).items():
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            setattr(sdk.types, name, kind)
    for kind in vars(sdk.types).values():
        if isinstance(kind, type) and hasattr(kind, "__total__"):
            kind.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
            kind.__required_keys__ = frozenset(  # type: ignore[attr-defined]
                key for key, hint in kind.__annotations__.items() if get_origin(hint) is Required
            )


for _sdk in _SDKS.values():
    _repair(_sdk)


@cache
def _adapter(namespace: str, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(getattr(_SDKS[namespace.lower()].types, name))


def complaints(namespace: str, name: str, body: Any) -> list[str]:
    """What is wrong with ``body`` as the SDK's type ``name``."""
    try:
        _adapter(namespace, name).validate_python(body)
    except ValidationError as error:
        return [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
    return []
