"""Keep the names of network cards by their MAC addresses, whatever bus they are on; and replace an old MAC address by
the new one wherever the network's files have it.

Cards whose provider assigns MAC addresses are identified by their driver; several of them also by the order in which
the guest's kernel finds them: it calls the first one eth0.
"""

from __future__ import annotations

import re

from farshore.export.preparation.edits import Edits
from farshore.export.preparation.wish import CardWish

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_LINKS = "/etc/systemd/network"
NETWORK_FILES = (
    ("/etc/netplan", "*.yaml"),
    ("/etc/systemd/network", "*.network"),
    ("/etc/NetworkManager/system-connections", "*"),
    ("/etc/sysconfig/network-scripts", "ifcfg-*"),
    ("/etc/network", "interfaces"),
    ("/etc/network/interfaces.d", "*"),
)
"""Folder and pattern of files that configure a guest's network."""
_NAMING_MAC = (*NETWORK_FILES, (_LINKS, "*.link"), ("/etc/udev/rules.d", "70-persistent-net.rules"))


def understood(card: CardWish) -> bool:
    """Return whether its name and its MAC address are valid: both come from the source, and go into files."""
    return bool(_NAME.fullmatch(card.name) and (card.driver or _MAC.fullmatch(card.mac.lower())))


def name_cards(edits: Edits, cards: tuple[CardWish, ...]) -> None:
    """Write the files that keep each card's name, and replace its old MAC address; report invalid cards."""
    if sum(bool(card.driver) for card in cards) > 1:
        edits.warnings.append("Its network cards are identified by the order in which its kernel finds them.")
    for number, card in enumerate(cards):
        if not understood(card):
            edits.warnings.append(f"Card {card.name or '?'} has no MAC address to know it by: it may get another name.")
            continue
        if card.driver:
            _by_driver(edits, card, number if len(cards) > 1 else None)
            continue
        if card.before and card.before.lower() != card.mac.lower():
            _renew(edits, card)
        text = f"[Match]\nMACAddress={card.mac.lower()}\n\n[Link]\nName={card.name}\n"
        edits.write(f"{_LINKS}/05-farshore-{card.name}.link", text, f"the card {card.mac} is called {card.name}")


def _by_driver(edits: Edits, card: CardWish, number: int | None) -> None:
    found = [f"Driver={card.driver}", *([] if number is None else [f"OriginalName=eth{number}"])]
    text = "\n".join(["[Match]", *found, "", "[Link]", f"Name={card.name}"]) + "\n"
    which = "the card" if number is None else f"the card eth{number}"
    edits.write(f"{_LINKS}/05-farshore-{card.name}.link", text, f"{which} of {card.driver} is called {card.name}")


def _renew(edits: Edits, card: CardWish) -> None:
    old = re.compile(re.escape(card.before), re.IGNORECASE)
    for folder, pattern in _NAMING_MAC:
        for path in edits.names(folder, pattern):
            text = edits.read(path)
            if old.search(text):
                edits.write(path, old.sub(card.mac.lower(), text), f"the new MAC address of {card.name}")
