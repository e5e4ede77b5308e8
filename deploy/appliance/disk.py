"""The appliance's disk: one GPT disk that boots by BIOS, with the lab's own partition layout, and its image formats."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

from farshore.lab import disk_layout
from farshore.lab.image import grub_core
from farshore.lab.recipe import guest_folder
from farshore.model.errors import Refused

BYTES = 16 << 30
"""What the machine sees. Images hold only what is written, about an eighth of it."""
SWAP_BYTES = 512 << 20
KERNEL_OPTIONS = "console=ttyS0 console=tty0 quiet loglevel=4"

_GRUB = """\
search --no-floppy --fs-uuid --set=root {root}
linux /vmlinuz root=UUID={root} ro {options}
initrd /initrd.img
boot
"""


def make(tree: Path, scratch: Path) -> Path:
    """Return a raw, sparse disk with the file system of ``tree``. Raises Refused with what a tool said."""
    raw, root, swap = scratch / "disk.raw", str(uuid.uuid4()), str(uuid.uuid4())
    (tree / "etc/fstab").write_text(
        f"UUID={root} / ext4 defaults,errors=remount-ro 0 1\nUUID={swap} none swap sw 0 0\n"
    )
    layout = disk_layout.Layout(BYTES, SWAP_BYTES)
    try:
        core = grub_core(tree, _GRUB.format(root=root, options=KERNEL_OPTIONS))
        boot = (tree / "usr/lib/grub/i386-pc/boot.img").read_bytes()
        disk_layout.write_partitions(raw, layout)
        disk_layout.write_root(raw, layout, root, tree, guest_folder() / "mke2fs.conf")
        disk_layout.write_swap(raw, layout, swap, scratch / "swap")
        disk_layout.write_boot_loader(raw, layout, boot, core)
    except subprocess.CalledProcessError as error:
        raise Refused(
            f"The disk could not be written: {error.stderr.decode(errors='replace').strip()[-500:]}",
            remedy="See that the output folder has 8 GiB free and that gdisk and e2fsprogs are installed.",
        ) from error
    return raw


def convert(raw: Path, made: Path, kind: str, options: str) -> Path:
    """Write ``raw`` to ``made`` as a compressed image. Raises Refused with what qemu-img said."""
    compressed = ["-c"] if kind == "qcow2" else []
    command = ["qemu-img", "convert", "-q", "-f", "raw", "-O", kind, *compressed, "-o", options, str(raw), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(
            f"{made.name} could not be written: {done.stderr.strip()[-500:]}",
            remedy="See that the output folder has 8 GiB free and that qemu-utils is installed.",
        )
    return made
