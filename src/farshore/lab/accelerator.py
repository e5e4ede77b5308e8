"""Choose how to run the lab's guest on this host: with KVM if the guest's own kernel really boots with it, otherwise
emulated.

The test is the recovery site's (``sites.qemu.accelerator``): a boot, whose result is kept until the host restarts. The
emulated processor was chosen by measurement (docs/decisions/2026-11-22-lab-guest.md): with QEMU's ``max`` a login takes
twice as long as with Westmere, the least that numpy's wheels need.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from farshore.sites.qemu.accelerator import choose_accelerator

EMULATED_PROCESSOR = "Westmere"


@dataclass(frozen=True)
class Accelerator:
    """How QEMU executes the guest's instructions, and its processor model."""

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
    """Decide with ``kernel`` (the guest's); ``folder`` keeps the result. The first call may take 20 s for each try.

    The environment's ``FARSHORE_LAB_ACCELERATOR`` (``kvm`` or ``tcg``) overrides the test."""
    name = os.environ.get("FARSHORE_LAB_ACCELERATOR") or choose_accelerator(folder, kernel)
    return Accelerator("kvm", "host") if name == "kvm" else Accelerator("tcg", EMULATED_PROCESSOR)
