"""The contents of the lab's guest, as one value whose hash names the built image in the cache.

A changed package list, size, kernel option or guest file gives another key, and so another build; nothing else does.
The files for the guest are in ``guest_recipe/`` beside this module.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Tuple

# For changes that image.py makes to the disk and that the fields below do not show: raise it when that code changes.
BUILD_VERSION = 1

MIB = 1024 * 1024


@dataclass(frozen=True)
class GuestRecipe:
    """A Debian machine with PostgreSQL and sshd on one GPT disk: boot loader, swap, root."""

    suite: str = "bookworm"
    packages: Tuple[str, ...] = (
        "dbus",
        "e2fsprogs",
        "grub-pc-bin",
        "initramfs-tools",
        "iproute2",
        "linux-image-cloud-amd64",
        "lvm2",
        "mdadm",
        "openssh-server",
        "openssh-sftp-server",
        "openssl",
        "postgresql-15",
        "procps",
        "python3",
        "systemd-sysv",
        "udev",
        "zstd",
    )
    # Never unpacked: they make the disk, and its first copy, larger without a benefit.
    left_out: Tuple[str, ...] = (
        "/usr/share/man/*",
        "/usr/share/doc/*",
        "/usr/share/info/*",
        "/usr/share/locale/*",
        "/usr/lib/x86_64-linux-gnu/libLLVM*",
        "/usr/lib/postgresql/*/lib/bitcode/*",
    )
    disk_bytes: int = 2048 * MIB
    swap_bytes: int = 128 * MIB
    database_scale: int = 5
    # mitigations: an emulated processor has nothing to mitigate.
    kernel_options: str = "console=ttyS0 quiet loglevel=4 mitigations=off random.trust_cpu=on"
    root_uuid: str = "5f1a6a6e-0d0c-4c55-9a0e-6661727368f1"
    swap_uuid: str = "5f1a6a6e-0d0c-4c55-9a0e-6661727368f2"

    def key(self) -> str:
        """Return sixteen hex digits over every field and every guest file."""
        digest = hashlib.sha256(json.dumps({"version": BUILD_VERSION, **asdict(self)}, sort_keys=True).encode())
        for name in guest_files():
            digest.update(name.encode() + b"\0" + (guest_folder() / name).read_bytes() + b"\0")
        return digest.hexdigest()[:16]

    def fill(self, text: str) -> str:
        """Replace ``@NAME@`` in a guest file by the recipe's values."""
        for name, value in (
            ("ROOT_UUID", self.root_uuid),
            ("SWAP_UUID", self.swap_uuid),
            ("KERNEL_OPTIONS", self.kernel_options),
        ):
            text = text.replace(f"@{name}@", value)
        return text


def guest_folder() -> Path:
    """Return the folder of the guest's files in this installation."""
    with resources.as_file(resources.files("farshore.lab") / "guest_recipe") as folder:
        return folder


def guest_files() -> Tuple[str, ...]:
    """Return the names of the guest's files below ``guest_folder()``, sorted."""
    folder = guest_folder()
    return tuple(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
