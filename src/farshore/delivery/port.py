"""The contract of a delivery: bring the disks of a recovery point to where a site can attach them.

recovery delivers in its own step, before a site creates the machine, so hours of writing are never hidden in a
``create``. A site says which way it wants (``RecoverySite.delivery``); recovery treats all ways alike. Everything is
keyed by the consignment's folder, and every method may be repeated after a crash at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from farshore.model.home_task import DiskPlace
from farshore.model.identifiers import DiskNumber
from farshore.model.machine import Firmware
from farshore.sites.port import Medium, ServedDisk, WrittenDisk

Watch = Callable[[float, str], None]
"""Receives the progress (0…1) and a text; it raises Cancelled to end a delivery. Called at least every few MiB, in the
thread that delivers."""


@dataclass(frozen=True)
class Consignment:
    """The disks of one recovered machine: ``sizes`` in bytes, at ``position`` (EPOCH:SEQUENCE) of ``machine`` in the
    vault. ``folder`` is the failover's own, on this host."""

    folder: Path
    name: str
    machine: str
    position: str
    sizes: Mapping[DiskNumber, int]
    vault_url: str
    vault_key: str = field(repr=False)
    """The vault's key, in hex."""
    address: str = ""
    """As in DeliveryWish."""
    firmware: Firmware = Firmware.BIOS
    """The firmware with which the machine will start, for a provider whose disks are made for one."""
    boot: DiskNumber | None = None
    """The disk to start from; None: the first."""


class Delivery(Protocol):
    """One way of delivery. tests/contract/test_deliveries.py tests each way against these promises."""

    def deliver(self, consignment: Consignment, watch: Watch) -> None:
        """Bring the disks to where ``media`` says. Continues where an interrupted call ended. Never called once the
        machine may have started. Raises Cancelled, NoSpace, and what opening the point raises."""
        ...

    def media(self, consignment: Consignment) -> Mapping[DiskNumber, Medium]:
        """Return where each disk is, once delivered. Changes nothing."""
        ...

    def at_hand(self, consignment: Consignment) -> Mapping[DiskNumber, ServedDisk | WrittenDisk]:
        """Return where this host itself reads and writes each disk, once delivered and before the machine starts."""
        ...

    def renew(self, consignment: Consignment) -> bool:
        """Undo what was written to the disks since they were delivered; return False if that needs another delivery.
        Never called once the machine may have started."""
        ...

    def stands(self, folder: Path) -> bool:
        """Return whether a machine that was delivered can read and write its disks."""
        ...

    def restore(self, consignment: Consignment) -> None:
        """Make the disks usable again, with everything that the machine wrote. Raises NotFound if that is
        impossible."""
        ...

    def settle(self, folder: Path) -> None:
        """Called when the machine will remain: make its disks depend only on this host."""
        ...

    def rest(self, folder: Path) -> None:
        """Called when the machine does not run: hold nothing open for it. Its writes are kept."""
        ...

    def withdraw(self, folder: Path) -> None:
        """Delete everything that was delivered, complete or not. Does nothing if there is nothing."""
        ...


@runtime_checkable
class Sending(Protocol):
    """A way that first has the disks on this host, where the guest is prepared, and then sends them to the site."""

    def send(self, consignment: Consignment, watch: Watch) -> None:
        """Send the disks to where ``media`` says. Continues where an interrupted call ended. Never called once the
        machine may have started. Raises Cancelled, NoSpace, and what opening the point raises."""
        ...


@runtime_checkable
class Surviving(Protocol):
    """A way that can update existing disks. ``position`` of the consignment is ignored here."""

    def look(self, consignment: Consignment, places: Sequence[DiskPlace], master_target: str = "") -> None:
        """Reserve these disks for the consignment without writing to them; ``master_target`` will write them (empty:
        the installation's own). Raises Refused, TooSmall, WrongState, NotFound, Malformed for disks that cannot be
        used; then the caller must withdraw the delivery."""
        ...

    def follow(self, consignment: Consignment, watch: Watch) -> None:
        """Update the disks almost to the machine's newest position. Raises Cancelled, and as ``look``."""
        ...
