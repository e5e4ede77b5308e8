"""The program that runs beside the disks: it finds the volumes on them, mounts them, and lists or copies files.

In user-mode Linux it is the first program. It gets the folder of a request, and answers there; it runs on the host's
own Python and programs, which it sees through hostfs, read-only. In the appliance it gets requests over its standard
input until that ends, and answers over its standard output. It must import nothing of the package. The disks may be
written to: a file system replays its log as it would at a boot.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import List, Protocol, Tuple, TypeVar

T = TypeVar("T")
_BTRFS_SCAN = 0x50009404
"""BTRFS_IOC_SCAN_DEV of linux/btrfs.h: 8 bytes that are not used, and a device's path."""
_POWER_OFF = 0x4321FEDC
"""LINUX_REBOOT_CMD_POWER_OFF, see reboot(2)."""
_LVM = (
    'devices{use_devicesfile=0 scan=["/dev"]} backup{backup=0 archive=0} '
    "activation{udev_sync=0 udev_rules=0 monitoring=0} global{event_activation=0}"
)
_ASSEMBLERS = (
    ("linux_raid_member", "mdadm", "mdadm", ("--assemble", "--scan", "--config=partitions", "--run")),
    ("LVM2_member", "vgchange", "lvm2", ("--config", _LVM, "-ay")),
)
"""By blkid's name of a member's kind: the tool that assembles devices from it, its package, and the command."""
_UNTOUCHED = ("none", "swap", "tmpfs", "proc", "sysfs", "devpts", "overlay", "nfs", "nfs4", "cifs", "fuse", "9p")
"""Kinds in a table of file systems that are on none of the disks."""

_SPECS = {
    "UUID=": "uuid",
    "/dev/disk/by-uuid/": "uuid",
    "LABEL=": "label",
    "/dev/disk/by-label/": "label",
    "PARTUUID=": "partition",
    "/dev/disk/by-partuuid/": "partition",
}
_TABLE = "/etc/fstab"
HERE = Path("/mnt")
"""Where the folder of the request is mounted: it may not be /run, which tools use for their own notes."""
CHARACTERS = ("nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8")
"""Modules that vfat loads by name; its own file does not list them as dependencies."""
_NO_FILES = ("swap", "LVM2_member", "linux_raid_member")
_ENCRYPTED = {"crypto_LUKS": "LUKS", "BitLocker": "BitLocker"}
_SENT = Path("/run/sent")
SERIAL = "disk-"
"""The appliance's disks are identified by their serial numbers: the disk's index in the request follows this prefix."""
FRAME = struct.Struct(">cI")
"""On the appliance's wire: the kind of a frame, and its length in bytes."""
REQUEST, ANSWER, DATA, END = b"r", b"a", b"d", b"e"
_PIECE = 1 << 18
_RECORDS = "--blocking-factor=512"
TAR = ("--numeric-owner", "--quoting-style=escape")
Complaints = List[Tuple[str, str, bool]]
"""Name in the archive (``copy/…``; empty: the whole), the problem, and whether a part of it arrived nevertheless."""
_PARTLY = (b"Read error", b"File shrank", b"Cannot seek")
_COMPLAINT = re.compile(
    rb"tar: (copy(?:/.*?)?): "
    rb"((?:Read error|File shrank|Wrote only|Cannot |Skipping|socket ignored|[Ff]ile name is too long|Unknown file).*)"
)
_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


class Declined(Exception):
    """The request cannot be fulfilled: the kind of error that the host must raise, and its text."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Volume:
    """A device with a file system; ``name`` is ``0p2`` for partition 2 of disk 0, ``vg/lv`` for a logical volume."""

    name: str
    file_system: str
    label: str
    uuid: str
    size: int
    device: str
    partition: str
    """The UUID that the partition table gives it, if any."""


class Tree:
    """Mounted file systems under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: list[str] = []
        self.unmounted: dict[str, str] = {}
        """Mount points whose volumes could not be mounted, with the reason: what is visible there is not what was
        requested."""

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Resolve links inside the context within the tree, as the machine does, and never on the host."""
        outside = os.open("/", os.O_RDONLY)
        os.chroot(self.root)
        os.chdir("/")
        try:
            yield
        finally:
            os.fchdir(outside)
            os.chroot(".")
            os.close(outside)

    def find(self, path: str) -> Path:
        """Return the path without links in it."""
        with self.entered():
            try:
                found = Path(path).resolve(strict=True)
            except (OSError, RuntimeError) as cause:
                self._check_mounted(os.path.normpath(path))
                raise Declined("not-found", f"{path} is not there ({cause}).") from cause
            self._check_mounted(str(found))
            return found

    def _check_mounted(self, path: str) -> None:
        for at, why in self.unmounted.items():
            if path == at or path.startswith(f"{at}/"):
                raise Declined("refused", f"{path} is on what belongs at {at}, which could not be mounted: {why}")

    def has(self, path: str) -> bool:
        """Return whether the path is a file."""
        try:
            return self.at(self.find(path)).is_file()
        except Declined:
            return False

    def entries(self, path: str) -> list[dict[str, object]]:
        """Return a folder's contents, or the file itself, sorted by name."""
        real = self.find(path)
        with self.entered():
            return [_entry(one) for one in (sorted(real.iterdir()) if real.is_dir() else [real])]

    def copied(self, path: str) -> Path:
        """Return where a file or a folder to be copied is from outside."""
        source = self.at(self.find(path))
        if not source.is_file() and not source.is_dir():
            raise Declined("refused", f"{path} is neither a file nor a folder.")
        return source

    def at(self, real: Path) -> Path:
        """Return where a path of the tree is from outside."""
        return self.root / real.relative_to("/")


def _entry(path: Path) -> dict[str, object]:
    status = path.lstat()
    kinds = ((stat.S_ISDIR, "folder"), (stat.S_ISREG, "file"), (stat.S_ISLNK, "link"))
    kind = next((word for test, word in kinds if test(status.st_mode)), "special")
    return {"name": path.name, "kind": kind, "size": status.st_size, "modified": status.st_mtime_ns}


class Host(Protocol):
    """The connection between this program and the host."""

    def requests(self) -> Iterator[dict[str, object]]:
        """Yield the requests, one after the other."""
        ...

    def copy(self, source: Path, request: dict[str, object]) -> Complaints:
        """Send a file, or a folder with its contents; return the problems."""
        ...

    def answer(self, answer: dict[str, object]) -> None:
        """Answer the request."""
        ...


class Folder:
    """One request and its answer in a folder of the host, seen through hostfs."""

    def __init__(self, folder: str) -> None:
        for kind, at in (("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run")):
            _run(["mount", "-t", kind, kind, at], check=True)
        _run(["mount", "-t", "hostfs", "-o", folder, "none", str(HERE)], check=True)

    def requests(self) -> Iterator[dict[str, object]]:
        yield json.loads((HERE / "request.json").read_text())

    def copy(self, source: Path, request: dict[str, object]) -> Complaints:
        """Copy from tar to tar. The host sets what hostfs cannot set of a file (fractions of a second, a link's
        owner)."""
        out = HERE / "out"
        _run(["mount", "-t", "hostfs", "-o", str(request["out"]), "none", str(out)], check=True)
        unpack = ["tar", "-x", "-p", *TAR, "--same-owner" if request["owners"] else "--no-same-owner", "-C", str(out)]
        with tempfile.TemporaryFile(dir="/run") as complaints:
            unpacking = subprocess.Popen(unpack, stdin=subprocess.PIPE, stderr=complaints, env=_plainly())
            assert unpacking.stdin is not None
            into = unpacking.stdin

            def write(piece: bytes) -> None:
                with contextlib.suppress(BrokenPipeError):  # it ends before the padding does, or has reported why
                    into.write(piece)

            packed = _packed(source, write)
            with contextlib.suppress(BrokenPipeError):
                into.close()
            status = unpacking.wait()
            complaints.seek(0)
            unpacked = complained(complaints.read(), status)
        with (HERE / "details.json").open("w") as file:
            for details in _details(source):
                file.write(json.dumps(details) + "\n")
        return packed + unpacked

    def answer(self, answer: dict[str, object]) -> None:
        (HERE / "answer.json").write_text(json.dumps(answer))


class Wire:
    """Requests, answers and archives of copied files, in frames: see ``FRAME``."""

    def requests(self) -> Iterator[dict[str, object]]:
        while header := _read(FRAME.size):
            kind, length = FRAME.unpack(header)
            assert kind == REQUEST
            yield json.loads(_read(length))

    def copy(self, source: Path, request: dict[str, object]) -> Complaints:  # noqa: ARG002 - the host keeps owners or not
        """Copy from tar over the wire to the host's tar."""
        found = _packed(source, lambda piece: _send(DATA, piece))
        _send(END, b"")
        return found

    def answer(self, answer: dict[str, object]) -> None:
        _send(ANSWER, json.dumps(answer).encode())


def _packed(source: Path, write: Callable[[bytes], object]) -> Complaints:
    """Pass on an archive with one file or folder in it, ``copy``; times to the nanosecond, holes as holes. What cannot
    be read is omitted, or padded, and named."""
    copy = _SENT / "copy"
    if source.is_dir():
        copy.mkdir(parents=True)
    else:
        _SENT.mkdir()
        copy.touch()
    # With everything mounted below it.
    _run(["mount", "--rbind", str(source), str(copy)], check=True)
    command = ["tar", "-c", "--format=posix", "--sparse", *TAR, _RECORDS, "-C", str(_SENT), "copy"]
    try:
        with tempfile.TemporaryFile(dir="/run") as complaints:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints, env=_plainly()
            )
            assert process.stdout is not None
            try:
                while piece := process.stdout.read(_PIECE):
                    write(piece)
            finally:
                process.stdout.close()
                status = process.wait()
            complaints.seek(0)
            return complained(complaints.read(), status)
    finally:
        _run(["umount", "--recursive", str(copy)], check=True)
        shutil.rmtree(_SENT)


def complained(said: bytes, status: int) -> Complaints:
    """Return tar's error output as complaints about single members; one without a name concerns the whole archive."""
    found: Complaints = []
    for line in said.splitlines():
        match = _COMPLAINT.fullmatch(line)
        if match is not None:
            name = re.sub(rb"\\([0-7]{3}|.)", _unquoted, match[1])
            text = match[2].decode(errors="replace")
            found.append((os.fsdecode(name), text, match[2].startswith(_PARTLY)))
        elif status and b"Exiting with failure" not in line:
            found.append(("", line.decode(errors="replace"), False))
    return found or ([("", f"tar ended with {status}", False)] if status else [])


def _unquoted(found: re.Match[bytes]) -> bytes:
    escape = found[1]
    return bytes([int(escape, 8)]) if len(escape) == 3 else _ESCAPES.get(escape, escape)


def _plainly() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def _details(source: Path) -> Iterator[tuple[str, int, int, int, int]]:
    """Yield path below the copy, times of access and change in ns, owner and group, for everything that can be
    reached."""
    waiting = [(source, "")]
    while waiting:
        path, below = waiting.pop()
        try:
            status = path.lstat()
            yield below, status.st_atime_ns, status.st_mtime_ns, status.st_uid, status.st_gid
            if stat.S_ISDIR(status.st_mode):
                waiting += [(one, f"{below}/{one.name}") for one in path.iterdir()]
        except OSError:  # it was named when it was packed
            continue


def _read(length: int) -> bytes:
    """Read ``length`` bytes of the standard input; none at its end."""
    heard = b""
    while len(heard) < length and (piece := os.read(0, length - len(heard))):
        heard += piece
    return heard if len(heard) == length else b""


def _send(kind: bytes, content: bytes) -> None:
    view = memoryview(FRAME.pack(kind, len(content)) + content)
    while view:
        view = view[os.write(1, view) :]


def main(host: Host) -> None:
    """Carry out each request and answer it."""
    for request in host.requests():
        try:
            answer = _answer(host, request)
        except Declined as error:
            answer = {"error": error.kind, "message": str(error)}
        except Exception:  # noqa: BLE001 - the host reports it
            answer = {"error": "fault", "message": traceback.format_exc()}
        host.answer(answer)
        # The next request finds the disks as this one did. What cannot be released ends with this machine.
        _run(["umount", "--recursive", str(HERE / "tree")])


def _answer(host: Host, request: dict[str, object]) -> dict[str, object]:
    numbers = request["disks"]
    assert isinstance(numbers, list)
    tree = Tree(HERE / "tree")
    sectors = request["sectors"]
    assert isinstance(sectors, list)
    volumes = assembled(numbers, _parted(sectors, tree.left_out), tree.left_out)
    if request["act"] == "volumes":
        tree.left_out += [_encrypted(one) for one in volumes if one.file_system in _ENCRYPTED]
        return {"volumes": [asdict(one) for one in volumes], "left_out": tree.left_out}
    _grow(tree, volumes, request)
    path = str(request["path"])
    if request["act"] == "entries":
        return {"entries": tree.entries(path), "left_out": tree.left_out}
    complaints = host.copy(tree.copied(path), request)
    return {"left_out": tree.left_out, "complaints": complaints}


# Volumes.


def _parted(sectors: list[int], left_out: list[str]) -> dict[str, str]:
    """Announce the partitions of disks with large sectors, if the kernel treats each disk as one with sectors of 512
    bytes, as user-mode Linux does; return the partitions' UUIDs by device. ``sectors``: each disk's, in bytes."""
    found: dict[str, str] = {}
    for place, size in enumerate(sectors):
        device = Path("/sys/class/block", f"ubd{chr(ord('a') + place)}")
        if size == 512 or not device.exists():
            continue
        disk = f"/dev/{device.name}"
        _run(["partx", "--delete", disk])  # partitions that the kernel derived from a table in other units
        listed = ["partx", "--show", "--noheadings", "--raw", "--output", "NR,UUID", "--sector-size", str(size), disk]
        try:
            told = _run(listed).stdout
            done = _run(["partx", "--add", "--sector-size", str(size), disk])
        except FileNotFoundError:
            left_out.append(f"Partitions in units of {size} bytes: partx is not installed here (the package fdisk).")
            return found
        if told and done.returncode:
            left_out.append(f"Partitions in units of {size} bytes: {done.stderr.strip()[:300]}")
        rows = (line.split() for line in told.splitlines())
        found.update({f"{disk}{row[0]}": row[1] for row in rows if len(row) > 1})
    return found


def assembled(numbers: list[int], partitions: dict[str, str], left_out: list[str]) -> list[Volume]:
    """Return the volumes with files, including those on arrays and logical volumes. ``partitions``: UUIDs that blkid
    does not find, by device."""
    found = every_volume(numbers, partitions)
    for kind, tool, package, command in _ASSEMBLERS:
        if not any(one.file_system == kind for one in found):
            continue
        if shutil.which(tool) is None:
            left_out.append(f"What is on {kind}s: {tool} is not installed here (the package {package}).")
            continue
        _load("dm-mod", "raid0", "raid1", "raid10", "raid456", "linear")
        _run([tool, *command])
        found = every_volume(numbers, partitions)
    kinds = {one.file_system for one in found}
    _load(*kinds, *(CHARACTERS if "vfat" in kinds else ()))
    return [one for one in _several_as_one(found) if one.file_system not in _NO_FILES]


def _several_as_one(found: list[Volume]) -> list[Volume]:
    """Register all btrfs devices with the kernel. Of the devices of one file system, return only the first."""
    first: dict[str, Volume] = {}
    rest = [one for one in found if one.file_system != "btrfs"]
    members = [one for one in found if one.file_system == "btrfs"]
    if members:
        control = Path("/run/btrfs-control")
        if not control.exists():
            os.mknod(control, stat.S_IFCHR | 0o600, os.makedev(10, 234))
        with control.open("rb", buffering=0) as file:
            for one in members:
                with contextlib.suppress(OSError):  # its mount reports any problem
                    fcntl.ioctl(file, _BTRFS_SCAN, bytearray(struct.pack("q4088s", 0, one.device.encode())))
                before = first.get(one.uuid)
                first[one.uuid] = one if before is None else replace(before, size=before.size + one.size)
    return sorted([*rest, *first.values()], key=lambda one: found.index(next(a for a in found if a.name == one.name)))


def every_volume(numbers: list[int], partitions: dict[str, str]) -> list[Volume]:
    """Return every block device that has any content, according to blkid."""
    found = []
    for device in sorted(Path("/sys/class/block").iterdir()):
        size = int((device / "size").read_text()) * 512
        if not size or device.name.startswith(("loop", "ram", "zram")):
            continue
        told = _run(["blkid", "-p", "-o", "export", f"/dev/{device.name}"]).stdout
        facts = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
        if "TYPE" in facts:
            facts = {name: value.replace("\\", "") for name, value in facts.items()}
            names = facts["TYPE"], facts.get("LABEL", ""), facts.get("UUID", "")
            partition = partitions.get(f"/dev/{device.name}") or facts.get("PART_ENTRY_UUID", "")
            found.append(Volume(_name(device, numbers), *names, size, f"/dev/{device.name}", partition))
    return found


def _name(device: Path, numbers: list[int]) -> str:
    if (device / "dm" / "name").exists():
        # The kernel has one name for both: a hyphen between them, and each of their own hyphens doubled.
        group, _, volume = re.sub(r"(?<!-)-(?!-)", "\0", (device / "dm" / "name").read_text().strip()).partition("\0")
        return f"{group}/{volume}".replace("--", "-").rstrip("/")
    part = device / "partition"
    if device.name.startswith("ubd"):
        place = ord(device.name[3]) - ord("a")
    elif device.name.startswith("vd"):
        whole = device.resolve().parent if part.exists() else device
        place = int((whole / "serial").read_text().strip().removeprefix(SERIAL))
    else:
        return device.name
    disk = str(numbers[place])
    return f"{disk}p{part.read_text().strip()}" if part.exists() else disk


# Trees.


def _grow(tree: Tree, volumes: list[Volume], request: dict[str, object]) -> None:
    """Mount the requested volume; otherwise all of them where the machine's own table of file systems puts them."""
    wanted = str(request["volume"])
    if wanted:
        _mount(_only([one for one in volumes if one.name == wanted], volumes), tree.root)
        return
    roots = root_volumes(volumes, tree)
    if not roots and len(volumes) == 1:
        roots = [(volumes[0], "")]
    volume, options = _only(roots, volumes)
    _mount(volume, tree.root, options)
    if not tree.has(_TABLE):
        return
    names = request["names"]
    assert isinstance(names, dict)
    for spec, at, options in table_rows(tree.at(tree.find(_TABLE)).read_text(errors="replace")):
        found = volume_by_spec(volumes, spec, names)
        try:
            if found is None:
                raise Declined("not-found", "not on the disks")
            _mount(found, tree.at(tree.find(at)), options)
        except Declined as error:
            tree.left_out.append(f"{at} ({spec}): {error}")
            tree.unmounted[at] = f"{spec}: {error}"


def _only(found: list[T], of: list[Volume]) -> T:
    if len(found) == 1:
        return found[0]
    names = ", ".join(one.name for one in of) or "none"
    closed = "".join(f" {_encrypted(one)}" for one in of if one.file_system in _ENCRYPTED)
    raise Declined("not-found", f"Say which volume the path is on. There are: {names}.{closed}")


def root_volumes(volumes: list[Volume], tree: Tree) -> list[tuple[Volume, str]]:
    """Return the volumes from which a machine starts, by their table of file systems, each with its mount options."""
    found = []
    for one in volumes:
        try:
            _mount(one, tree.root)
        except Declined:
            continue
        if tree.has(_TABLE):
            found.append((one, ""))
        elif one.file_system == "btrfs":
            # A root that is a subvolume, @ or root, which the machine's own boot names.
            names = sorted(entry.name for entry in tree.root.iterdir() if tree.has(f"/{entry.name}{_TABLE}"))
            found += [(one, f"subvol={name}") for name in names]
        _run(["umount", str(tree.root)], check=True)
    return found


def table_rows(text: str) -> list[tuple[str, str, str]]:
    """Return what a table of file systems mounts besides the root, those nearest the root first: fstab(5)."""
    rows = []
    for fields in (line.split() for line in text.splitlines()):
        if len(fields) < 3 or fields[0].startswith("#"):
            continue
        spec, at = (re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), one) for one in fields[:2])
        options = fields[3] if len(fields) > 3 else ""
        elsewhere = fields[2].split(".")[0] in _UNTOUCHED or "bind" in options.split(",")
        if at.startswith("/") and os.path.normpath(at) != "/" and not elsewhere:
            rows.append((spec.replace('"', ""), os.path.normpath(at), options))
    return sorted(rows, key=lambda row: row[1].count("/"))


def volume_by_spec(volumes: list[Volume], spec: str, names: dict[str, int]) -> Volume | None:
    for prefix, field in _SPECS.items():
        if spec.startswith(prefix):
            value = spec.removeprefix(prefix).lower()
            return next((one for one in volumes if getattr(one, field).lower() == value), None)
    if spec.startswith("/dev/mapper/"):
        escaped = {one.name.replace("-", "--").replace("/", "-"): one for one in volumes}
        return escaped.get(spec.removeprefix("/dev/mapper/"))
    short = spec.removeprefix("/dev/")
    for name, number in names.items():
        part = short.removeprefix(name).lstrip("p") if short.startswith(name) else None
        if part is not None and (part == "" or part.isdigit()):
            return next((one for one in volumes if one.name == (f"{number}p{part}" if part else str(number))), None)
    return next((one for one in volumes if one.name == short), None)


def _mount(volume: Volume, at: Path, options: str = "") -> None:
    """Mount read-only, by the file system's own driver: its log is replayed first."""
    if volume.file_system in _ENCRYPTED:
        raise Declined("refused", _encrypted(volume))
    kept = [one for one in options.split(",") if one.startswith(("subvol=", "subvolid="))]
    if volume.file_system == "vfat":
        kept.append("utf8")  # otherwise letters of a name are lost that the kernel's default set lacks
    done = _run(["mount", "-t", volume.file_system, "-o", ",".join(["ro", *kept]), volume.device, str(at)])
    if done.returncode:
        raise Declined("refused", f"{volume.name} ({volume.file_system}) does not mount: {done.stderr.strip()[:300]}")


def _encrypted(volume: Volume) -> str:
    return f"{volume.name} is encrypted ({_ENCRYPTED[volume.file_system]}): restore the disk, and open it with its key."


def _load(*modules: str) -> None:
    """Load modules; what is built in, or is not a module, is skipped."""
    elsewhere = HERE / "modules"
    for module in modules:
        _run(["modprobe", "-q", *(["-d", str(elsewhere)] if elsewhere.exists() else []), module])


def _run(command: list[str], *, check: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=check, capture_output=True, text=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    try:
        main(Folder(sys.argv[1]) if len(sys.argv) > 1 else Wire())
    finally:
        os.sync()
        ctypes.CDLL(None).reboot(_POWER_OFF)
