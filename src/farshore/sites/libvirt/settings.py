"""Settings of a libvirt site."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class LibvirtSettings(BaseModel):
    """``uri`` names a libvirtd on this host whose guests run as root, because the disks' sockets and files are closed
    to other users. ``accelerator``: auto finds out by booting whether KVM runs guests here. ``disks``: served over NBD
    while the machine runs, or written to files of this host before it starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: Annotated[str, Field(max_length=400, pattern=r"^qemu(\+unix)?:///system(\?socket=/[\x21-\x7e]*)?$")] = (
        "qemu:///system"
    )
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    disks: Literal["served", "written"] = "served"
