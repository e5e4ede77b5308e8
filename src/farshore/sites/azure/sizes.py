"""Which size of virtual machine an order gets: the one that was chosen, or the smallest that fits. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from farshore.model.errors import Refused
from farshore.model.machine import Firmware
from farshore.sites.azure.names import SIZE
from farshore.sites.port import RecoveryOrder

_GIB = 1 << 30


@dataclass(frozen=True)
class Size:
    """``memory`` in bytes; ``disks``: data disks; ``generations``: V1, V2."""

    name: str
    cores: int
    memory: int
    cards: int
    disks: int
    generations: frozenset[str]
    premium: bool

    def lacks(self, order: RecoveryOrder, *, premium: bool) -> str:
        """Say what the order wants and it has not; empty: nothing."""
        machine = order.machine
        wanted = (
            (self.cores >= machine.processors, f"{machine.processors} processors"),
            (self.memory >= machine.memory, f"{machine.memory >> 20} MiB of memory"),
            (self.cards >= max(1, len(machine.nics)), f"{len(machine.nics)} network cards"),
            (self.disks >= len(order.disks) - 1, f"{len(order.disks) - 1} data disks"),
            (generation_of(machine.firmware) in self.generations, f"generation {generation_of(machine.firmware)}"),
            (self.premium or not premium, "premium disks"),
        )
        return ", ".join(text for has, text in wanted if not has)


def generation_of(firmware: Firmware) -> str:
    """Azure's name of a firmware."""
    return "V1" if firmware is Firmware.BIOS else "V2"


def sizes_in(skus: Iterable[Any], region: str, zone: str) -> list[Size]:
    """The sizes of x86-64 that a region, and a zone of it, offers to the subscription."""
    found = []
    for sku in skus:
        if sku.resource_type != "virtualMachines" or region not in {place.lower() for place in sku.locations or ()}:
            continue
        if any(_closes(one, zone) for one in sku.restrictions or ()):
            continue
        known = {one.name: one.value for one in sku.capabilities or ()}
        if known.get("CpuArchitectureType", "x64") == "x64":
            found.append(_size(sku.name, known))
    return found


def _closes(restriction: Any, zone: str) -> bool:
    if restriction.type == "Zone":
        return bool(zone) and zone in (restriction.restriction_info.zones or ())
    return True


def _size(name: str, known: dict[str, str]) -> Size:
    return Size(
        name=name,
        cores=int(known.get("vCPUsAvailable") or known.get("vCPUs") or 0),
        memory=int(float(known.get("MemoryGB") or 0) * _GIB),
        cards=int(known.get("MaxNetworkInterfaces") or 1),
        disks=int(known.get("MaxDataDiskCount") or 0),
        generations=frozenset(known.get("HyperVGenerations", "V1").split(",")),
        premium=known.get("PremiumIO", "False") == "True",
    )


def choose(sizes: Iterable[Size], order: RecoveryOrder, chosen: str, *, premium: bool) -> Size:
    """The one of that name (the order's tag goes before ``chosen``), else the smallest that lacks nothing. Raises
    Refused."""
    every = list(sizes)
    name = order.tags.get(SIZE, chosen)
    if name:
        known = next((size for size in every if size.name.lower() == name.lower()), None)
        if known is None:
            raise Refused(
                f"The region does not offer the size {name}.", remedy="See: az vm list-skus --location REGION --size"
            )
        if wrong := known.lacks(order, premium=premium):
            raise Refused(f"The size {name} lacks {wrong}.", remedy=f"Choose another: the tag {SIZE} of the target.")
        return known
    fitting = [size for size in every if not size.lacks(order, premium=premium)]
    if not fitting:
        raise Refused(
            f"No size that the region offers has {order.machine.processors} processors, "
            f"{order.machine.memory >> 20} MiB of memory and what else {order.name} needs.",
            remedy="Give its target fewer processors or less memory, or choose another region.",
        )
    return min(fitting, key=lambda size: (size.cores, size.memory, len(size.name), size.name))


def smallest(sizes: Iterable[Size], chosen: str, *, cores: int, memory: int, premium: bool) -> Size:
    """The size ``chosen``, else the smallest with so many cores and bytes of memory. Raises Refused."""
    every = list(sizes)
    if chosen:
        found = next((size for size in every if size.name.lower() == chosen.lower()), None)
        if found is None:
            raise Refused(f"The region does not offer the size {chosen}.", remedy="See: az vm list-skus --size")
        return found
    fitting = [
        size
        for size in every
        if size.cores >= cores and size.memory >= memory and "V2" in size.generations and (size.premium or not premium)
    ]
    if not fitting:
        raise Refused(
            f"No size that the region offers has {cores} processors and {memory >> 30} GiB of memory.",
            remedy="Choose one: --setting process_server_size=SIZE, when the site is added.",
        )
    return min(fitting, key=lambda size: (size.cores, size.memory, len(size.name), size.name))
