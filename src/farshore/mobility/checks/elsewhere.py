"""Check what would prevent this machine from starting at a recovery site: other hardware, other names, no TPM of its
own."""

from __future__ import annotations

import functools
import json
import platform
import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, FrozenSet, Iterator, Optional, Set

from farshore.api_types.machines import Finding
from farshore.mobility.capture import disks as known
from farshore.mobility.capture.disks import bottom_disks
from farshore.mobility.checks.findings import error, fine, warning

_LUKS = b"LUKS\xba\xbe"
_LUKS_HEAD = struct.Struct(">6sHQ")
_LUKS_JSON = 4096
_MOST_HEADER = 4 << 20
_BOUND = {"systemd-tpm2": "this machine's TPM", "clevis": "Clevis (a TPM, or a Tang server)"}
"""By the kind of a LUKS2 token: what opens the volume instead of a passphrase."""
_DRIVERS = ("virtio_blk", "virtio_pci")
_BY_PLACE = re.compile(r"/dev/(?:(?:sd|vd|hd|xvd)[a-z]+|nvme[0-9]+n)[0-9p]+$|/dev/disk/by-(?:path|id)/")
_LIST_SECONDS = 60


@dataclass(frozen=True)
class Places:
    """Places on the machine."""

    root: Path = Path("/")

    @property
    def efi(self) -> Path:
        """Exists if the machine was started by UEFI."""
        return self.root / "sys/firmware/efi"

    @property
    def boot(self) -> Path:
        return self.root / "boot"

    @property
    def fstab(self) -> Path:
        return self.root / "etc/fstab"

    def node(self, name: str) -> Path:
        """Return a device node."""
        return self.root / "dev" / name


def check_elsewhere(devices: FrozenSet[str], places: Places = Places()) -> Iterator[Finding]:
    """Yield the findings. ``devices``: the protected disks as "major:minor"."""
    if platform.machine() != "x86_64":
        yield error(
            "architecture",
            f"This machine is {platform.machine()}; capture and recovery know x86-64 only.",
            "It cannot be protected by this release.",
        )
    yield from _firmware(places)
    yield from _drivers(places)
    yield from _names(places)
    yield from _encrypted(devices, places)


def _firmware(places: Places) -> Iterator[Finding]:
    if not places.efi.exists():
        return
    for base in ("boot/efi", "efi", "boot"):
        folder = places.root / base
        found = {one.name.lower() for one in folder.glob("[Ee][Ff][Ii]/[Bb][Oo][Oo][Tt]/*")}
        if "bootx64.efi" in found:
            yield fine("UEFI", "The fallback boot file exists: the machine starts without its boot entries too.")
            return
    yield warning(
        "UEFI",
        "There is no fallback boot file (EFI/BOOT/BOOTX64.EFI): at a recovery site the machine starts only by the boot "
        "entries that its agent reports, and by none on another computer.",
        "grub-install --target=x86_64-efi --removable, or copy shimx64.efi and grubx64.efi there; mount /boot/efi.",
    )


def _drivers(places: Places) -> Iterator[Finding]:
    """Yield whether the initramfs has virtio drivers: recovered machines find their disks with them."""
    release = platform.release()
    builtin = _text(places.root / "lib/modules" / release / "modules.builtin")
    lacking = [name for name in _DRIVERS if f"/{name}.ko" not in builtin]
    if not lacking:
        yield fine("virtio", "The kernel has the drivers for a recovery site's disks built in.")
        return
    listed = _initramfs(places.boot, release)
    if listed is None:
        yield warning(
            "virtio",
            f"It is not known whether the initramfs has what a recovery site's disks need ({', '.join(lacking)}).",
            "List it with your distribution's tool, or run a test failover.",
        )
        return
    lacking = [name for name in lacking if not re.search(rf"/{name.replace('_', '[_-]')}\.ko", listed)]
    if lacking:
        yield error(
            "virtio",
            f"The initramfs of {release} lacks {', '.join(lacking)}: at a recovery site it finds no disk.",
            "Debian: add them to /etc/initramfs-tools/modules, then update-initramfs -u. "
            f"Others: dracut --force --add-drivers '{' '.join(lacking)}'",
        )
    else:
        yield fine("virtio", "The initramfs has the drivers for a recovery site's disks.")


def _initramfs(boot: Path, release: str) -> Optional[str]:
    """Return the content of the running kernel's initramfs, or None if it cannot be listed."""
    for tool, name in (("lsinitramfs", f"initrd.img-{release}"), ("lsinitrd", f"initramfs-{release}.img")):
        image, program = boot / name, shutil.which(tool)
        if image.exists() and program is not None:
            status = image.stat()
            return _listed(program, image, status.st_mtime_ns, status.st_size)
    return None


@functools.lru_cache(maxsize=1)
def _listed(program: str, image: Path, _changed: int, _size: int) -> Optional[str]:
    """List it; cached, because that costs a second or more of processor time."""
    try:
        done = subprocess.run([program, str(image)], capture_output=True, check=True, timeout=_LIST_SECONDS, text=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _names(places: Places) -> Iterator[Finding]:
    for line in _text(places.fstab).splitlines():
        fields = line.split()
        if len(fields) > 1 and not line.lstrip().startswith("#") and _BY_PLACE.match(fields[0]):
            yield warning(
                f"fstab {fields[1]}",
                f"It is mounted by {fields[0]}, which means something else, or nothing, at a recovery site.",
                "Name it by UUID= in /etc/fstab (see blkid).",
            )


def _encrypted(devices: FrozenSet[str], places: Places) -> Iterator[Finding]:
    for place in sorted(known.SYS_BLOCK.glob("dm-*")):
        real = place.resolve()
        uuid, name = _text(real / "dm" / "uuid").strip(), _text(real / "dm" / "name").strip()
        below = sorted(real.glob("slaves/*"))
        if not uuid.startswith("CRYPT-LUKS2") or not below or not bottom_disks(_text(real / "dev").strip()) & devices:
            continue
        document = luks_document(places.node(below[0].name))
        if document is None:
            yield warning(
                f"encrypted {name}",
                "Its LUKS header cannot be read, so it may open only with this machine's TPM.",
                f"cryptsetup luksDump /dev/{below[0].name}: there must be a key slot with a passphrase.",
            )
            continue
        bound, slots = _tokens(document), _slots(document)
        if not bound:
            continue
        by = " and ".join(sorted({_BOUND[kind] for kind in bound}))
        held: Set[str] = set().union(*bound.values())
        if slots - held:
            yield warning(
                f"encrypted {name}",
                f"It is opened by {by}, which is missing at a recovery site: there the machine asks for a passphrase.",
                "Keep the passphrase at hand, and open the console: farshore failover console.",
            )
        else:
            yield error(
                f"encrypted {name}",
                f"Only {by} opens it, so it cannot be opened at a recovery site.",
                f"Add a passphrase, and keep it elsewhere: cryptsetup luksAddKey /dev/{below[0].name}",
            )


def luks_document(device: Path) -> Optional[Dict[str, Dict[str, Dict[str, object]]]]:
    """Return the JSON of a LUKS2 header, or None if there is none to be read."""
    try:
        with device.open("rb") as file:
            magic, version, size = _LUKS_HEAD.unpack(file.read(_LUKS_HEAD.size))
            if magic != _LUKS or version != 2 or not _LUKS_JSON < size <= _MOST_HEADER:
                return None
            file.seek(_LUKS_JSON)
            found = json.loads(file.read(size - _LUKS_JSON).split(b"\0", 1)[0])
    except (OSError, ValueError, struct.error):
        return None
    return found if isinstance(found, dict) else None


def _tokens(document: Dict[str, Dict[str, Dict[str, object]]]) -> Dict[str, Set[str]]:
    """Return, for each kind of token that is bound to something, the key slots that it opens."""
    found: Dict[str, Set[str]] = {}
    for token in document.get("tokens", {}).values():
        kind, slots = str(token.get("type")), token.get("keyslots")
        if kind in _BOUND and isinstance(slots, list):
            found.setdefault(kind, set()).update(map(str, slots))
    return found


def _slots(document: Dict[str, Dict[str, Dict[str, object]]]) -> Set[str]:
    return set(document.get("keyslots", {}))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it does not exist
        return ""
