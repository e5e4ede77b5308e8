"""Check the guest's initramfs images for the drivers of the root disk's bus, and rebuild those that lack one with the
guest's own tools. Runs inside the guest's root (chroot).

Debian's images contain the drivers of every hypervisor unless configured otherwise, and take minutes to build under
emulation: one is rebuilt only if a driver is missing. dracut's images are inspected but not changed.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from farshore.export.preparation.edits import Edits

_MODULES = "/etc/initramfs-tools/modules"
_MARK = "# Farshore: drivers of the disks here and where the machine came from"
_TOOL_SECONDS = 540
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_MODULE = re.compile(r"([^/\s]+)\.ko(?:\.\w+)?$", re.MULTILINE)
_STORAGE = re.compile(
    r"kernel/drivers/(?:ata|scsi|nvme|block|virtio|message|xen|hv)/(?:\S*/)?([^/\s]+)\.ko", re.MULTILINE
)


def prepare_start_up(edits: Edits, drivers: tuple[str, ...], root: Path = Path("/")) -> None:
    """Check the image of every kernel, and rebuild those that lack a driver which the kernel has."""
    kernels = sorted(one.name for one in (root / "lib/modules").glob("*") if (one / "modules.dep").exists())
    if not kernels:
        edits.warnings.append("No kernel's modules were found: whether it has the drivers of its disks is not known.")
    for kernel in kernels:
        _prepare(edits, kernel, drivers, root)


def lacking(kernel: Path, listing: str, drivers: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return which ``drivers`` an image lacks that its kernel has as modules, and which the kernel lacks too.
    ``kernel``: the folder of its modules; ``listing``: the paths in the image."""
    built_in = {plain(one) for one in _MODULE.findall(_text(kernel / "modules.builtin"))}
    modules = {plain(line.partition(":")[0].rpartition("/")[2].partition(".ko")[0]) for line in
               _text(kernel / "modules.dep").splitlines()}  # fmt: skip
    there = {plain(one) for one in _MODULE.findall(listing)}
    waiting = [one for one in drivers if plain(one) not in built_in]
    return (
        [one for one in waiting if plain(one) in modules and plain(one) not in there],
        [one for one in waiting if plain(one) not in modules],
    )


def plain(module: str) -> str:
    """Return a module's name as the kernel has it."""
    return module.replace("-", "_")


def _prepare(edits: Edits, kernel: str, drivers: tuple[str, ...], root: Path) -> None:
    modules = root / "lib/modules" / kernel
    debian, dracut = root / f"boot/initrd.img-{kernel}", root / f"boot/initramfs-{kernel}.img"
    image = debian if debian.exists() else dracut
    listing, tool = "", "lsinitramfs" if image == debian else "lsinitrd"
    if image.exists():
        listed = _run([tool, str(image)])
        if listed is None or listed.returncode:
            edits.warnings.append(f"The start-up image of {kernel} cannot be inspected: {tool} does not run.")
            return
        listing = listed.stdout
    lacks, unknown = lacking(modules, listing, drivers)
    if unknown:
        edits.warnings.append(f"Kernel {kernel} has no driver {', '.join(unknown)}: it may not find its disks.")
    if not image.exists():
        if lacks:
            edits.warnings.append(f"Kernel {kernel} has no start-up image for {', '.join(lacks)}.")
    elif image == dracut:
        _say_of_dracut(edits, kernel, drivers, lacks)
    elif lacks:
        _make_anew(edits, kernel, lacks, listing)


def _say_of_dracut(edits: Edits, kernel: str, drivers: tuple[str, ...], lacks: list[str]) -> None:
    if not lacks:
        edits.notes.append(f"The start-up image of {kernel} (dracut) was inspected: it has {', '.join(drivers)}.")
        return
    words = " ".join(lacks)
    edits.warnings.append(
        f"The start-up image of {kernel} (dracut) lacks {words}, and Farshore does not rebuild dracut's images. "
        f"Run on the source: dracut --force --add-drivers '{words}' --kver {kernel}"
    )


def _make_anew(edits: Edits, kernel: str, lacks: list[str], listing: str) -> None:
    """Include the disk drivers that the image had before, so that the machine still starts at its source."""
    had = sorted(set(_STORAGE.findall(listing)))
    listed = edits.read(_MODULES)
    known = {line.strip() for line in listed.splitlines()}
    new = [one for one in dict.fromkeys([*lacks, *had]) if one not in known]
    if new:
        mark = [] if _MARK in listed else [_MARK]
        text = "\n".join([*([listed.rstrip()] if listed.strip() else []), *mark, *new]) + "\n"
        # Not by the edits: the tool reads it now, and it must remain, because the image is rebuilt with each kernel.
        path = Path(_MODULES)
        path.write_text(text)
    done = _run(["update-initramfs", "-u", "-k", kernel])
    if done is None or done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1] if done is not None else "it did not end"
        edits.warnings.append(
            f"The start-up image of {kernel} lacks {', '.join(lacks)}; update-initramfs: {said[:200]}"
        )
        return
    edits.notes.append(f"/boot/initrd.img-{kernel}: rebuilt with {', '.join(lacks)}, also in {_MODULES}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    """Return None if it is not installed, or does not end."""
    try:
        return subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            env=_ENVIRONMENT, timeout=_TOOL_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
