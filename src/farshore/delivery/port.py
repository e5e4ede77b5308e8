"""What a delivery promises: the disks of a recovery point, where a site can attach them.

recovery delivers before it has a site create the machine, in a step of its own, so that hours of writing never hide in
a ``create``. A site says which way it wants (``RecoverySite.delivery``); recovery treats both ways alike. Everything is
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
"""Told how much is done (0…1), and in words; it raises Cancelled to end a delivery. Called every few MiB at least, in
the thread that delivers."""


@dataclass(frozen=True)
class Consignment:
    """The disks of one recovered machine: ``sizes`` in bytes, as of ``position`` (EPOCH:SEQUENCE) of ``machine`` in the
    vault. ``folder`` is the failover's own, on this host."""

    folder: Path
    name: str
    machine: str
    position: str
    sizes: Mapping[DiskNumber, int]
    vault_url: str
    vault_key: str = field(repr=False)
    """Hex."""
    address: str = ""
    """As in DeliveryWish."""
    firmware: Firmware = Firmware.BIOS
    """By which the machine is to start, for a provider whose disks are made for one."""
    boot: DiskNumber | None = None
    """The disk to start from; None: the first."""


class Delivery(Protocol):
    """One way. tests/contract/test_deliveries.py holds both to what is said here."""

    def deliver(self, consignment: Consignment, watch: Watch) -> None:
        """Bring the disks to where ``media`` says. Goes on where a call that was cut off had come to. Never called once
        the machine may have started. Raises Cancelled, NoSpace, what opening the point raises."""
        ...

    def media(self, consignment: Consignment) -> Mapping[DiskNumber, Medium]:
        """Where each disk is, once delivered. Changes nothing."""
        ...

    def at_hand(self, consignment: Consignment) -> Mapping[DiskNumber, ServedDisk | WrittenDisk]:
        """Where this host itself reads and writes each disk, once delivered and before the machine starts."""
        ...

    def renew(self, consignment: Consignment) -> bool:
        """Take back what was written to the disks since they were delivered; False where that takes delivering them
        again. Never called once the machine may have started."""
        ...

    def stands(self, folder: Path) -> bool:
        """Whether a machine that was delivered to can read and write its disks."""
        ...

    def restore(self, consignment: Consignment) -> None:
        """Make it so again, with all that the machine had written. Raises NotFound where that cannot be had."""
        ...

    def settle(self, folder: Path) -> None:
        """The machine stays: see that its disks come to depend on nothing but this host."""
        ...

    def rest(self, folder: Path) -> None:
        """The machine does not run: hold nothing open for it. What it wrote stays."""
        ...

    def withdraw(self, folder: Path) -> None:
        """Leave nothing of what was delivered, whole or not. Nothing there already is fine."""
        ...


@runtime_checkable
class Sending(Protocol):
    """Of a way that has the disks at hand first, where the guest is prepared, and then sends them to the site."""

    def send(self, consignment: Consignment, watch: Watch) -> None:
        """Bring them to where ``media`` says. Goes on where a call that was cut off had come to. Never called once the
        machine may have started. Raises Cancelled, NoSpace, what opening the point raises."""
        ...


@runtime_checkable
class Surviving(Protocol):
    """Of a way that can bring disks up to date which are there already. ``position`` counts for nothing here."""

    def look(self, consignment: Consignment, places: Sequence[DiskPlace], master_target: str = "") -> None:
        """Take these disks for the consignment, and write nothing to them; that ``master_target`` is to write them
        (empty: the installation's own). Raises Refused, TooSmall, WrongState,
        NotFound, Malformed for disks that it cannot have; then what was delivered is to be withdrawn."""
        ...

    def follow(self, consignment: Consignment, watch: Watch) -> None:
        """Bring them near to the machine's newest position. Raises Cancelled, and as ``look``."""
        ...
