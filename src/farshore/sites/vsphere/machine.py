"""Describe the machine of a recovery order for a VMware server. Pure."""

from __future__ import annotations

from farshore.model.machine import Firmware
from farshore.sites.port import RecoveryOrder
from farshore.vsphere import recovered
from farshore.vsphere.building import NewCard, NewMachine
from farshore.vsphere.placing import Places


def new_machine(order: RecoveryOrder, places: Places) -> NewMachine:
    """A machine that comes home keeps its hardware UUID, which guests and licences know; another one gets the
    failover's id. A part of that id is in its name, because the name itself may be taken by the machine that was there
    before."""
    machine = order.machine
    cards = []
    for number, nic in enumerate(machine.nics):
        led = order.networks.get(number)
        network = places.networks[led.name] if led is not None else places.network
        # An isolated card is attached to a network all the same, but disconnected. At home it is connected as before.
        cards.append(NewCard(nic.mac, network, connected=led is not None or (order.home and not order.isolated)))
    return NewMachine(
        name=f"{order.name[:60]} ({order.failover[:8]})",
        uuid=machine.hardware_id.lower() if order.home and machine.hardware_id else order.failover.lower(),
        instance_uuid=order.failover.lower(),
        processors=machine.processors,
        memory=machine.memory,
        efi=machine.firmware is not Firmware.BIOS,
        system=machine.operating_system,
        datastore=places.datastore,
        disks=[disk.size for disk in order.disks],
        cards=cards,
        notes=f"Recovered by Farshore: failover {order.failover}.",
        options={
            recovered.LABEL: order.failover,
            recovered.RUN: recovered.STOPPED,
            recovered.MADE: "yes",
            **{f"farshore.tag.{key}": value for key, value in order.tags.items()},
        },
    )
