"""A catalog in a temporary folder, and the rows that most tests of protection begin with."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from farshore.api_types.machines import Description, Disk, EpochKind, EpochRequest
from farshore.catalog import epochs, machines, policies, process_servers
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import MachineRow, ProcessServerRow
from farshore.catalog.upgrade import upgrade
from farshore.model.machine import Firmware

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND
MACHINE = "11111111-1111-4111-8111-111111111111"
SERVER = "22222222-2222-4222-8222-222222222222"


@functools.cache
def _template() -> bytes:
    """A new catalog's file: made once, for migrating takes longer than most tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.sqlite"
        catalog = Catalog(f"sqlite:///{path}")
        upgrade(catalog.engine)
        with catalog.writing() as tx:
            policies.ensure_default(tx)
        catalog.close()
        return path.read_bytes()


def fresh_catalog(folder: Path) -> Catalog:
    path = folder / "catalog.sqlite"
    path.write_bytes(_template())
    return Catalog(f"sqlite:///{path}")


def description(size: int = 1 << 30, hardware: str = "hw-1", disks: int = 1) -> Description:
    return Description(
        hostname="db1",
        firmware=Firmware.UEFI,
        processors=2,
        memory=1 << 30,
        operating_system="Debian 12",
        kernel="6.1.0-18-amd64",
        architecture="x86_64",
        hardware_id=hardware,
        disks=[
            Disk(number=number, name=f"vd{chr(97 + number)}", size=size, boot=number == 0) for number in range(disks)
        ],
    )


def add_machine(tx: Transaction, **values: object) -> MachineRow:
    row = MachineRow(
        **{
            "id": MACHINE,
            "name": "db1",
            "state": "enrolled",
            "enrolled": NOW,
            "policy": "default",
            "description": description().model_dump(mode="json"),
            "hardware_id": "hw-1",
            "protect": True,
            **values,
        }
    )
    tx.add(row)
    tx.flush()
    return row


def add_server(tx: Transaction, server: str = SERVER, now: int = NOW) -> ProcessServerRow:
    row = process_servers.register(tx, server, f"https://{server[:8]}:9443", "0.1.0", now)
    row.spool_limit = 1 << 30
    return row


def request(kind: EpochKind = EpochKind.INITIAL, run: str = "run-1", **values: object) -> EpochRequest:
    return EpochRequest.model_validate({"run": run, "kind": kind, "description": description(), **values})


def become_consistent(catalog: Catalog, epoch: int, consistent_from: int = 10, stored: int = 100) -> None:
    """Let an epoch have become consistent, and its machine be protected."""
    with catalog.writing() as tx:
        row = epochs.get(tx, MACHINE, epoch)
        row.consistent, row.consistent_from, row.stored = True, consistent_from, stored
        machines.get(tx, MACHINE).state = "protected"
