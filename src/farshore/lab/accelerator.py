"""How to run the lab's guest on this host: by KVM where the guest's own kernel really boots by it, else emulated.

The verdict is the recovery site's (``sites.qemu.accelerator``), found by booting and kept until the host restarts.
The emulated processor is chosen by measurement (docs/decisions/2026-11-22-lab-guest.md): QEMU's ``max`` takes twice
as long to log in as Westmere, which is the least that numpy's wheels run on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from farshore.sites.qemu.accelerator import choose_accelerator

EMULATED_PROCESSOR = "Westmere"


@dataclass(frozen=True)
class Accelerator:
    """How QEMU executes the guest's instructions, and with what processor model."""

    name: str
    processor: str

    @property
    def emulated(self) -> bool:
        """Whether every instruction is translated: some twenty times slower than the host."""
        return self.name != "kvm"

    def arguments(self) -> list[str]:
        """QEMU's options for it."""
        if not self.emulated:
            return ["-accel", "kvm", "-cpu", self.processor]
        return ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", self.processor]


def accelerator_for(folder: Path, kernel: Path | None) -> Accelerator:
    """Decide with ``kernel`` (the guest's); ``folder`` keeps the verdict. The first call may take 20 s a try.

    The environment's ``FARSHORE_LAB_ACCELERATOR`` (``kvm`` or ``tcg``) decides instead where it is set.
    """
    name = os.environ.get("FARSHORE_LAB_ACCELERATOR") or choose_accelerator(folder, kernel)
    return Accelerator("kvm", "host") if name == "kvm" else Accelerator("tcg", EMULATED_PROCESSOR)
