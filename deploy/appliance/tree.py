"""The appliance's root file system: Debian packages by mmdebstrap, then our wheel and units as docs/operate/install.md
installs them.

Python packages are those of requirements.txt, each by its hash. They are fetched on this host and installed inside the
tree without a network, so that scripts have the tree's own paths.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from farshore.lab.image import bootstrap
from farshore.model.errors import Refused, TryLater

SUITE = "bookworm"
PYTHON = "3.11"
"""The suite's own."""
EXTRAS = ("server", "vsphere", "alerts", "azure")
PACKAGES = (
    *("ca-certificates", "dbus", "e2fsprogs", "initramfs-tools", "iproute2", "iputils-ping", "kmod", "less", "procps"),
    *("linux-image-amd64", "grub-pc-bin", "systemd-sysv", "systemd-resolved", "systemd-timesyncd", "udev", "zstd"),
    *("openssh-client", "openssh-server", "open-vm-tools", "python3", "python3-venv", "tzdata"),
    # What the servers use: recovered machines, their disks, files out of points.
    *("qemu-system-x86", "qemu-utils", "ovmf", "libnbd-bin", "fuse3", "busybox-static", "libbpf1"),
)
LEFT_OUT = (
    # /usr/share/doc stays: it has the licences of what is handed on.
    *("/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*"),
    # Graphics, sound and wireless: no hypervisor gives them to this machine.
    *("/lib/modules/*/kernel/drivers/gpu/drm/amd/*", "/lib/modules/*/kernel/drivers/gpu/drm/nouveau/*"),
    *("/lib/modules/*/kernel/sound/*", "/lib/modules/*/kernel/drivers/net/wireless/*"),
    *("/lib/modules/*/kernel/drivers/media/*", "/lib/modules/*/kernel/drivers/infiniband/*"),
)
_TARGET = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.2"}
_HERE = Path(__file__).parent
_MANYLINUX = [f"manylinux_2_{minor}_x86_64" for minor in range(5, 37)] + ["manylinux2014_x86_64", "manylinux1_x86_64"]


def make(clone: Path, scratch: Path) -> Path:
    """Return the tree, made below ``scratch``. Raises TryLater where packages cannot be had, Refused for a clone whose
    wheel cannot be built."""
    seed, wheels, tree = scratch / "seed", scratch / "wheels", scratch / "tree"
    shutil.copytree(_HERE / "tree", seed)
    _lay_out_units(clone, seed)
    wheels.mkdir()
    _fetch(clone, wheels, scratch)
    _build_wheel(clone, wheels)
    script = _HERE / "customise.sh"
    hooks = (
        f'--essential-hook=cp -R --no-preserve=ownership {shlex.quote(str(seed))}/. "$1"/',
        f'--customize-hook=cp -R {shlex.quote(str(wheels))} "$1"/wheels',
        f'--customize-hook=chroot "$1" sh -s < {shlex.quote(str(script))}',
    )
    bootstrap(SUITE, PACKAGES, LEFT_OUT, hooks, tree, scratch)
    return tree


def _lay_out_units(clone: Path, seed: Path) -> None:
    servers = clone / "deploy" / "servers"
    units, users = seed / "etc/systemd/system", seed / "usr/lib/sysusers.d"
    users.mkdir(parents=True)
    shutil.copy(servers / "farshore.service", units)
    shutil.copy(servers / "farshore.sysusers", users / "farshore.conf")


def _build_wheel(clone: Path, wheels: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(
            f"The wheel cannot be built: {(done.stderr or done.stdout).strip()[-800:]}",
            remedy="Run `make setup`, then `make -C bpf`, and look at what that says.",
        )


def _fetch(clone: Path, wheels: Path, scratch: Path) -> None:
    wanted = scratch / "requirements.txt"
    wanted.write_text(pinned(clone.joinpath("requirements.txt").read_text(), closure("farshore", EXTRAS)))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp"]
    command += ["--abi", "cp311", "--abi", "abi3", "--abi", "none"]
    command += [part for platform in _MANYLINUX for part in ("--platform", platform)]
    command += ["--require-hashes", "--requirement", str(wanted), "--dest", str(wheels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TryLater(
            f"The Python packages cannot be fetched: {done.stderr.strip()[-800:]}",
            remedy="Check this host's way to its Python package index, and try again.",
        )
    shutil.copy(wanted, wheels)


def closure(package: str, extras: tuple[str, ...]) -> set[str]:
    """Names of all packages that ``package`` needs with these extras, as this environment's own metadata says."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(package, extra) for extra in ("", *extras)]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        for needed in _needed(*one):
            name = _normal(needed.name)
            found.add(name)
            waiting += [(name, extra) for extra in ("", *needed.extras)]
    return found - {_normal(package)}


def _needed(package: str, extra: str) -> Iterator[Requirement]:
    for line in metadata.requires(package) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({**_TARGET, "extra": extra}):
            yield requirement


def pinned(requirements: str, names: set[str]) -> str:
    """The blocks of a hashed requirements file that pin ``names`` for the appliance's Python, without their conditions.
    Raises Refused for one that is not pinned."""
    chosen: dict[str, str] = {}
    for block in re.findall(r"^[A-Za-z0-9].*(?:\n[ \t]+.*)*", requirements, flags=re.MULTILINE):
        head, _, rest = block.partition(" \\")
        requirement = Requirement(head)
        if requirement.marker is None or requirement.marker.evaluate(_TARGET):
            chosen[_normal(requirement.name)] = f"{requirement.name}{requirement.specifier} \\{rest}"
    missing = sorted(names - set(chosen))
    if missing:
        raise Refused(f"requirements.txt does not pin {', '.join(missing)}.", remedy="Run `make lock`.")
    return "\n".join(chosen[name] for name in sorted(names)) + "\n"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
