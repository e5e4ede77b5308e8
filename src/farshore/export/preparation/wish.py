"""The request for a guest's preparation, and its result, as JSON to the appliance and back.

Imported inside the appliance too: only the standard library here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class CardWish:
    """One network card: the guest's name of it, and its new configuration. ``addresses`` in CIDR notation; without them
    and without ``dhcp`` its configuration is unchanged. ``before``: its MAC address at the source. ``driver``: it is
    identified by the driver of the guest's kernel, because the provider assigns its MAC address."""

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
        """Whether its configuration must change."""
        return self.dhcp or bool(self.addresses)


@dataclass(frozen=True)
class Wish:
    """``drivers``: modules that the guest's kernel needs for its disks. ``names``: the source's names of its disks
    (``sda``), with the disk's number. ``boot``: the number of the boot disk. ``undo``: only revert an earlier
    preparation."""

    drivers: tuple[str, ...] = ()
    names: Mapping[str, int] = field(default_factory=dict)
    boot: int = 0
    cards: tuple[CardWish, ...] = ()
    ssh: bool = False
    undo: bool = False


@dataclass(frozen=True)
class Report:
    """``system``: the guest's name of its system. ``changes``: each changed file, and why. ``warnings``: what could not
    be done, or needs attention."""

    system: str = ""
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_wish(fields: Mapping[str, Any]) -> Wish:
    """Read a wish from JSON."""
    lists = ("addresses", "gateways", "nameservers")
    cards = [CardWish(**{**card, **{name: tuple(card[name]) for name in lists}}) for card in fields["cards"]]
    return Wish(**{**fields, "drivers": tuple(fields["drivers"]), "cards": tuple(cards)})
