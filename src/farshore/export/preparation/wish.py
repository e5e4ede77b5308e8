"""What a guest is to be prepared for, and what came of it: as it travels to the appliance and back, as JSON.

Imported inside the appliance too: nothing but the standard library here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class CardWish:
    """One network card: what the guest calls it, and what it is to be. ``addresses`` in CIDR notation; with neither
    them nor ``dhcp`` its configuration stays. ``before``: its MAC address at the source. ``driver``: it is known by the
    driver of the guest's kernel, for the provider gives it a MAC address of its own."""

    name: str
    mac: str
    before: str = ""
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    nameservers: tuple[str, ...] = ()
    dhcp: bool = False
    driver: str = ""

    @property
    def configured(self) -> bool:
        """Whether its configuration is to be another one."""
        return self.dhcp or bool(self.addresses)


@dataclass(frozen=True)
class Wish:
    """``drivers``: what the guest's kernel needs to reach its disks. ``names``: what the source calls its disks
    (``sda``), by name, with the disk's number. ``boot``: the number of the disk that it starts from. ``undo``: only
    take back what an earlier preparation did."""

    drivers: tuple[str, ...] = ()
    names: Mapping[str, int] = field(default_factory=dict)
    boot: int = 0
    cards: tuple[CardWish, ...] = ()
    ssh: bool = False
    undo: bool = False


@dataclass(frozen=True)
class Report:
    """``system``: what the guest calls itself. ``changes``: each file that is another one now, and why.
    ``warnings``: what could not be done, or is to be minded."""

    system: str = ""
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_wish(fields: Mapping[str, Any]) -> Wish:
    """Return the wish back from JSON."""
    lists = ("addresses", "gateways", "nameservers")
    cards = [CardWish(**{**card, **{name: tuple(card[name]) for name in lists}}) for card in fields["cards"]]
    return Wish(**{**fields, "drivers": tuple(fields["drivers"]), "cards": tuple(cards)})
