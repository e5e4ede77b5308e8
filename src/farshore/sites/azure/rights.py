"""What the site's identity must be allowed in its resource group, and what of it a set of permissions lacks. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_COMPUTE, _NETWORK = "Microsoft.Compute", "Microsoft.Network"
_KINDS = {
    f"{_COMPUTE}/virtualMachines": (
        *("read", "write", "delete", "instanceView/read", "start/action", "powerOff/action", "deallocate/action"),
        "retrieveBootDiagnosticsData/action",
    ),
    f"{_COMPUTE}/disks": ("read", "write", "delete", "beginGetAccess/action", "endGetAccess/action"),
    f"{_NETWORK}/networkInterfaces": ("read", "write", "delete", "join/action"),
    f"{_NETWORK}/networkSecurityGroups": ("read", "write", "delete", "join/action"),
    f"{_NETWORK}/publicIPAddresses": ("read", "write", "delete", "join/action"),
    f"{_NETWORK}/virtualNetworks": ("read", "write", "delete", "subnets/read", "subnets/write", "subnets/join/action"),
}
NEEDED = tuple(f"{kind}/{act}" for kind, acts in _KINDS.items() for act in acts)
"""In the resource group."""
_IDENTITY = "Microsoft.ManagedIdentity/userAssignedIdentities"


def needed(*, identity: str) -> tuple[str, ...]:
    """In the resource group; ``identity``: the managed one of temporary process servers, if they have one."""
    return (*NEEDED, f"{_IDENTITY}/read", f"{_IDENTITY}/assign/action") if identity else NEEDED


IN_REGION = (f"{_COMPUTE}/skus/read", f"{_COMPUTE}/locations/usages/read", f"{_COMPUTE}/locations/operations/read")
"""In the subscription: they change nothing."""


def lacking(permissions: Iterable[Mapping[str, Any]], needed: Sequence[str] = NEEDED) -> list[str]:
    """Of ``needed``, what no permission gives. Each has ``actions``, and ``notActions`` that it leaves out."""
    every = list(permissions)
    return [action for action in needed if not any(_gives(one, action) for one in every)]


def _gives(permission: Mapping[str, Any], action: str) -> bool:
    given, but = permission.get("actions") or (), permission.get("notActions") or ()
    return any(_fits(one, action) for one in given) and not any(_fits(one, action) for one in but)


def _fits(pattern: str, action: str) -> bool:
    """Azure's wildcard stands for any text, slashes too, and its names know no case."""
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(".*".join(parts), action, re.IGNORECASE) is not None
