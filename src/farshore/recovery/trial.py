"""Build the order that a site would get for a machine now, to ask the site whether it could build it. Nothing is
delivered, and the vault is not used: the machine is as it described itself last."""

from __future__ import annotations

from farshore.api_types.machines import Description
from farshore.catalog.machines import AimedMachine
from farshore.delivery.port import Consignment
from farshore.model.identifiers import DiskNumber
from farshore.model.machine import DiskDescription, MachineDescription, NicDescription
from farshore.model.target import MachineTarget
from farshore.recovery.context import RecoveryContext
from farshore.recovery.orders import Target, recovery_order
from farshore.sites.port import FailoverId, RecoveryOrder, RecoverySite

_POSITION = "0:0"


def trial_order(
    context: RecoveryContext,
    site: RecoverySite,
    machine: AimedMachine,
    description: Description,
    wanted: MachineTarget,
) -> RecoveryOrder:
    """Return the order. Its failover's id is the machine's own id, which no failover has."""
    kept = [disk for disk in description.disks if disk.number not in machine.exclude_disks]
    sizes = {DiskNumber(disk.number): disk.size for disk in kept}
    consignment = Consignment(
        folder=context.files(machine.id).folder,
        name=machine.name,
        machine=machine.id,
        position=_POSITION,
        sizes=sizes,
        vault_url=context.vault_url,
        vault_key="",
    )
    # At a Unix socket even if the site reads over TLS: the keys of a served disk are made when it is delivered.
    media = context.delivery(site).media(consignment)
    failover = FailoverId(machine.id)
    target = Target(
        failover=failover,
        machine=machine.id,
        name=wanted.name or machine.name,
        position=_POSITION,
        isolated=False,
        forward=wanted.forward,
        wanted=wanted,
    )
    return recovery_order(target, as_described(description), sizes, media)


def as_described(description: Description) -> MachineDescription:
    """Return the machine as a vault would describe it."""
    return MachineDescription(
        hostname=description.hostname,
        firmware=description.firmware,
        processors=description.processors,
        memory=description.memory,
        operating_system=description.operating_system,
        kernel=description.kernel,
        architecture=description.architecture,
        hardware_id=description.hardware_id,
        disks=tuple(
            DiskDescription(
                number=DiskNumber(disk.number),
                name=disk.name,
                size=disk.size,
                logical_block_size=disk.logical_block_size,
                serial=disk.serial,
                boot=disk.boot,
                excluded=disk.excluded,
            )
            for disk in description.disks
        ),
        nics=tuple(NicDescription(nic.name, nic.mac, tuple(nic.addresses)) for nic in description.nics),
        boot_entries=tuple(description.boot_entries),
    )
