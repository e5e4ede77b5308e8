"""Build the lab's guest image once and keep it: mmdebstrap makes the tree, disk_layout the disk.

``ensure_image`` is the entry point. A build happens in a folder beside its final place and is renamed when it is
complete, so a killed build leaves nothing that looks like an image. On Debian, packages come from the sources of the
host's own apt, on other hosts from mmdebstrap's default. Needs root.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Sequence

import asyncssh

from farshore.lab import disk_layout
from farshore.lab.cache import cache_folder, only_one
from farshore.lab.recipe import GuestRecipe, guest_files, guest_folder
from farshore.model.errors import Refused, TryLater

log = logging.getLogger(__name__)

# Host packages by the command that proves their presence; `make demo` installs these.
HOST_TOOLS = {"mmdebstrap": "mmdebstrap", "sgdisk": "gdisk", "mkfs.ext4": "e2fsprogs", "mkswap": "util-linux"}
_GRUB_MODULES = ("biosdisk", "part_gpt", "ext2", "search", "search_fs_uuid", "linux", "boot")


@dataclass(frozen=True)
class GuestImage:
    """A built guest: never booted, never written to. Runs use copies of ``disk``."""

    folder: Path

    @property
    def disk(self) -> Path:
        """The raw, sparse disk image."""
        return self.folder / "disk.raw"

    @property
    def kernel(self) -> Path:
        """The guest's own kernel, for boots without a disk."""
        return self.folder / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        """The guest's own initial file system."""
        return self.folder / "initrd.img"

    @property
    def ssh_key(self) -> Path:
        """Private key for root's account; mode 0600."""
        return self.folder / "id_ed25519"

    @property
    def host_key(self) -> Path:
        """The guest's public SSH host key, which identifies it."""
        return self.folder / "host_key.pub"

    def database_password(self) -> str:
        """Password of the database user ``demo``, who has all rights."""
        return (self.folder / "database-password").read_text().strip()

    def copy_disk(self, target: Path) -> None:
        """Copy the disk to ``target``: shares blocks if the file system can, and keeps holes."""
        subprocess.run(["cp", "--reflink=auto", "--sparse=always", str(self.disk), str(target)], check=True)


def ensure_image(recipe: GuestRecipe) -> GuestImage:
    """Return the image of ``recipe``, from the cache or built now (about two minutes).

    Raises Refused if a tool is missing or the user is not root, TryLater if the packages could not be fetched or
    installed."""
    folder = cache_folder() / "images"
    folder.mkdir(exist_ok=True)
    final = folder / recipe.key()
    with only_one(folder / "lock"):
        if not final.exists():
            check_host()
            with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as scratch:
                built = _build(recipe, Path(scratch))
                built.rename(final)
    return GuestImage(final)


def check_host() -> None:
    """Raise Refused if a tool for building images is missing, or the user is not root."""
    missing = [package for command, package in HOST_TOOLS.items() if shutil.which(command) is None]
    if missing:
        raise Refused(
            "The lab's image cannot be built here: a tool is missing.", remedy=f"Install {' '.join(missing)}."
        )
    if os.geteuid() != 0:
        raise Refused("Building the lab's image needs root.", remedy="Run it as root.")


def _build(recipe: GuestRecipe, scratch: Path) -> Path:
    log.info("building the guest image (%s)", recipe.key())
    result = scratch / "image"
    result.mkdir()
    image = GuestImage(result)
    seed, tree = scratch / "seed", scratch / "tree"
    _write_secrets(image)
    _write_seed(recipe, image, seed)
    _bootstrap(recipe, seed, tree, scratch)
    core = grub_core(tree, recipe.fill((guest_folder() / "grub.cfg").read_text()))
    boot = (tree / "usr/lib/grub/i386-pc/boot.img").read_bytes()
    shutil.copyfile((tree / "vmlinuz").resolve(), image.kernel)
    shutil.copyfile((tree / "initrd.img").resolve(), image.initramfs)
    shutil.copyfile(tree / "etc/ssh/ssh_host_ed25519_key.pub", image.host_key)
    layout = disk_layout.Layout(recipe.disk_bytes, recipe.swap_bytes)
    try:
        disk_layout.write_partitions(image.disk, layout)
        disk_layout.write_root(image.disk, layout, recipe.root_uuid, tree, guest_folder() / "mke2fs.conf")
        disk_layout.write_swap(image.disk, layout, recipe.swap_uuid, scratch / "swap")
        disk_layout.write_boot_loader(image.disk, layout, boot, core)
    except subprocess.CalledProcessError as error:
        raise Refused(
            f"The disk could not be written: {error.stderr.decode(errors='replace').strip()[-500:]}",
            remedy="Check that the cache folder has 4 GiB of free space, and that gdisk and e2fsprogs are installed.",
        ) from error
    (result / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))
    return result


def _write_secrets(image: GuestImage) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519", comment="farshore-lab")
    for path, content in (
        (image.ssh_key, key.export_private_key()),
        (image.folder / "database-password", secrets.token_urlsafe(18).encode()),
    ):
        path.touch(mode=0o600)
        path.write_bytes(content)
    image.ssh_key.with_suffix(".pub").write_bytes(key.export_public_key())


def _write_seed(recipe: GuestRecipe, image: GuestImage, seed: Path) -> None:
    """Write the files that must be in the guest before its packages are configured."""
    for name in guest_files():
        if name.startswith("etc/"):
            target = seed / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(recipe.fill((guest_folder() / name).read_text()))
    home = seed / "root"
    (home / ".ssh").mkdir(parents=True)
    shutil.copyfile(image.ssh_key.with_suffix(".pub"), home / ".ssh" / "authorized_keys")
    shutil.copyfile(guest_folder() / "postgresql.conf", home / "postgresql.conf")
    password = home / ".demo-password"
    password.touch(mode=0o600)
    password.write_text(image.database_password())


def _bootstrap(recipe: GuestRecipe, seed: Path, tree: Path, scratch: Path) -> None:
    script = guest_folder() / "customise.sh"
    hooks = (
        f'--essential-hook=cp -R --no-preserve=ownership {shlex.quote(str(seed))}/. "$1"/',
        f'--customize-hook=DATABASE_SCALE={recipe.database_scale} chroot "$1" sh -s < {shlex.quote(str(script))}',
    )
    bootstrap(recipe.suite, recipe.packages, recipe.left_out, hooks, tree, scratch)


def bootstrap(
    suite: str, packages: Sequence[str], left_out: Sequence[str], hooks: Sequence[str], tree: Path, scratch: Path
) -> None:
    """Make the Debian tree ``tree`` from ``packages``. ``left_out``: patterns of paths that are not unpacked.
    ``hooks``: options of mmdebstrap. Needs root. Raises TryLater with mmdebstrap's last message."""
    command = [
        # Its own namespaces: whatever a failed build leaves mounted or running ends with it.
        *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
        *("mmdebstrap", "--variant=minbase", "--format=directory", f"--include={','.join(packages)}"),
        *('--aptopt=Apt::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"'),
        # Our files exist already: keep them, without asking.
        "--dpkgopt=force-confold",
        # Nothing here must survive a power cut; the disk made from the tree must.
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in left_out),
        *hooks,
        *(suite, str(tree), *_apt_sources(suite)),
    ]
    with tempfile.TemporaryFile(dir=scratch) as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            output.seek(0)
            said = output.read().decode(errors="replace")
            raise TryLater(
                f"mmdebstrap failed:\n{said[-2000:]}", remedy="Check that apt works on this host, and try again."
            )


def _apt_sources(suite: str) -> Sequence[str]:
    """Return the host's own source files if the host runs ``suite``; otherwise nothing, so that mmdebstrap uses its
    default."""
    if platform.freedesktop_os_release().get("VERSION_CODENAME") != suite:
        return ()
    candidates = [Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources")]
    return [str(path) for path in candidates if path.is_file() and path.stat().st_size > 0]


def grub_core(tree: Path, configuration: str) -> bytes:
    """Return GRUB's core image with its boot commands, made by the tree's own GRUB (package grub-pc-bin)."""
    work = tree / "root" / "grub"
    work.mkdir()
    (work / "early.cfg").write_text(configuration)
    subprocess.run(
        [
            *("chroot", str(tree), "grub-mkimage", "-O", "i386-pc", "-p", "/boot/grub"),
            *("-c", "/root/grub/early.cfg", "-o", "/root/grub/core.img", *_GRUB_MODULES),
        ],
        check=True,
        capture_output=True,
    )
    core = (work / "core.img").read_bytes()
    shutil.rmtree(work)
    return core
