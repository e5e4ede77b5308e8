"""Recognise in a console's text why a recovered machine's guest does not come up. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Diagnosis:
    """The problem in one sentence, and what to do. Such a guest does not recover by itself."""

    message: str
    remedy: str


_OTHER_BUS = "Choose the source's disk bus (farshore machine target set MACHINE --disk-bus) or another point."
_OTHER_POINT = "Fail over to another point: farshore failover run MACHINE --point; or repair the source."
_SIGNS = (
    (r"Kernel panic - not syncing: VFS: Unable to mount root fs", "The guest's kernel found no root disk", _OTHER_BUS),
    (r"Kernel panic - not syncing: ([^\r\n]{1,200})", "The guest's kernel panicked", _OTHER_POINT),
    (r"ALERT! +(\S{1,200}) does not exist\. +Dropping to a shell", "The guest found no root disk", _OTHER_BUS),
    (r"Gave up waiting for root (?:file system )?device", "The guest found no root disk", _OTHER_BUS),
    (r"dracut-initqueue\S* timeout|Entering emergency mode", "The guest's initramfs found no root disk", _OTHER_BUS),
    (r"No bootable device|not a bootable disk|BdsDxe: No bootable option", "The firmware found no disk to start from",
     "Find the boot disk (farshore machine show), then fail over to another point."),
    (r"grub rescue>", "The boot loader did not find its files", _OTHER_POINT),
    (r"You are in (?:rescue|emergency) mode|Give root password for maintenance",
     "The guest is in emergency mode: it could not mount a file system or start a service", _OTHER_POINT),
)  # fmt: skip
_COMPILED = tuple((re.compile(sign), message, remedy) for sign, message, remedy in _SIGNS)
_NEWEST = 16384
"""Bytes of text that are searched: output before a restart of the guest no longer matters."""


def diagnose(text: str) -> Diagnosis | None:
    """Return the first known sign in the newest text; None if no problem is recognised."""
    newest = text[-_NEWEST:]
    for sign, message, remedy in _COMPILED:
        found = sign.search(newest)
        if found is not None:
            said = " ".join(found[0].split())
            return Diagnosis(f"{message}: {said!r} is on its console.", remedy)
    return None
