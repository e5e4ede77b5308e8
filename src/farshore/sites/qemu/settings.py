"""What may be set about a QEMU site."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class QemuSettings(BaseModel):
    """``accelerator``: auto finds out by booting whether KVM runs guests here. ``disks``: served over NBD while the
    machine runs, or written to files of this host before it starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    disks: Literal["served", "written"] = "served"
