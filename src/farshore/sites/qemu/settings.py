"""Settings of a QEMU site."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, IPvAnyAddress, model_validator


class QemuSettings(BaseModel):
    """``accelerator``: auto finds out by booting whether KVM runs guests here. ``disks``: served over NBD while the
    machine runs, or written to files of this host before it starts. ``disks_at``: the address of this host at which
    they are served, over TLS; if empty, at a Unix socket."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    disks: Literal["served", "written"] = "served"
    disks_at: Literal[""] | IPvAnyAddress = ""

    @model_validator(mode="after")
    def _one_address_for_what_is_served(self) -> QemuSettings:
        if self.disks_at and self.disks == "written":
            raise ValueError("disks_at applies only to disks that are served")
        if self.disks_at and (self.disks_at.is_unspecified or self.disks_at.is_multicast):
            raise ValueError("disks_at must be one address of this host")
        return self
