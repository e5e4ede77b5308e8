"""Store recovery orders as JSON, and read those that earlier releases wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from farshore.model.errors import Damaged, NotFound
from farshore.sites.port import FailoverId, RecoveryOrder


def write_order(order: RecoveryOrder) -> bytes:
    """Return the order as JSON."""
    return _ORDER.dump_json(order, indent=1)


def read_order(text: bytes) -> RecoveryOrder:
    """Read an order from JSON. Raises pydantic.ValidationError."""
    return _ORDER.validate_json(text)


def kept_order(path: Path, failover: FailoverId) -> RecoveryOrder:
    """Read the order of a machine from its file. Raises NotFound, Damaged, OSError."""
    try:
        return read_order(path.read_bytes())
    except FileNotFoundError as error:
        raise not_created(failover) from error
    except ValidationError as error:
        raise Damaged(f"{path} is not a recovery order.", remedy="Destroy the machine and fail over again.") from error


def not_created(failover: FailoverId) -> NotFound:
    """Return the error of a site that has no such machine."""
    return NotFound(f"There is no recovered machine {failover} here.", remedy="Create it first.")


def _with_media(fields: Any) -> Any:
    """Convert an order of a release that could not write disks: each of its disks was an export at a Unix socket, in
    the fields ``socket`` and ``export``."""
    disks = fields.get("disks") if isinstance(fields, dict) else None
    if not isinstance(disks, list):
        return fields
    return {**fields, "disks": [_with_medium(disk) for disk in disks]}


def _with_medium(disk: Any) -> Any:
    if not isinstance(disk, dict) or "medium" in disk or "socket" not in disk:
        return disk
    rest = {name: value for name, value in disk.items() if name not in ("socket", "export")}
    return {**rest, "medium": {"address": {"path": disk["socket"]}, "export": disk.get("export")}}


_ORDER: TypeAdapter[RecoveryOrder] = TypeAdapter(Annotated[RecoveryOrder, BeforeValidator(_with_media)])
