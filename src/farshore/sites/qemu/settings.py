"""What may be set about a QEMU site."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class QemuSettings(BaseModel):
    """``accelerator``: auto finds out by booting whether KVM runs guests here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
