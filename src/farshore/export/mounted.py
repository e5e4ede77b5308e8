"""A source as a file on this host, through our own NBD server and nbdfuse; and single files out of it by debugfs.

No kernel module beyond FUSE, no loop device and no root are needed. The file is read-only.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from farshore.export.device import ReadOnlyDevice
from farshore.export.nbd.server import NbdServer
from farshore.export.read_cache import ReadCache
from farshore.model.errors import NotFound, Refused, TryLater
from farshore.model.ports import BlockSource

_CACHE_BYTES = 64 << 20
_START_SECONDS = 20.0


@contextlib.contextmanager
def mounted(source: BlockSource, folder: Path, name: str) -> Iterator[Path]:
    """``folder/name`` holds the disk while the context lasts; ``folder`` must exist. The source is closed at its end.

    Raises Refused (nbdfuse is missing), TryLater (it did not start).
    """
    device = ReadOnlyDevice(ReadCache(source, _CACHE_BYTES))
    with contextlib.closing(device), tempfile.TemporaryDirectory(prefix="farshore-mount-") as run:
        if shutil.which("nbdfuse") is None:
            raise Refused("nbdfuse is not installed.", remedy="Install the package nbdfuse.")
        socket = Path(run) / "nbd.sock"
        server = NbdServer({"0": device}, default="0")
        server.listen_unix(socket)
        server.start()
        try:
            command = ["nbdfuse", "-r", str(folder / name), f"nbd+unix:///0?socket={socket}"]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
            try:
                _wait(process, folder / name)
                yield folder / name
            finally:
                _unmount(folder)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                assert process.stderr is not None
                process.stderr.close()
        finally:
            server.close()


def copy_file(source: BlockSource, offset: int, path: str, target: Path) -> None:
    """Copy one file out of the ext2/3/4 file system that begins at ``offset`` of the disk; closes the source.

    Raises NotFound where there is no such file or no such file system, Refused where a tool is missing or the target
    exists, Malformed for a path that debugfs would take apart.
    """
    if shutil.which("debugfs") is None:
        raise Refused("debugfs is not installed.", remedy="Install the package e2fsprogs.")
    if target.exists():
        raise Refused(f"{target} exists already.", remedy="Choose another name, or remove it.")
    if '"' in path or "\n" in path or '"' in str(target) or not path.startswith("/"):
        raise Refused(f"{path!r} cannot be asked for.", remedy="Give an absolute path without quotes or line ends.")
    with tempfile.TemporaryDirectory(prefix="farshore-file-") as folder, mounted(source, Path(folder), "disk") as disk:
        request = f'dump "{path}" "{target}"'
        command = ["debugfs", "-R", request, f"{disk}?offset={offset}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    complaint = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("debugfs 1."))
    if done.returncode or complaint.strip() or not target.exists():
        target.unlink(missing_ok=True)
        raise NotFound(
            f"{path} could not be read: {complaint.strip()[:300]}",
            remedy="Check the path and the partition; only ext2, ext3 and ext4 can be read this way.",
        )


def _unmount(folder: Path) -> None:
    """By FUSE's own tool, which users may run; by umount for root where it is not installed."""
    for command in (["fusermount3", "-u"], ["fusermount", "-u"], ["umount"]):
        if shutil.which(command[0]):
            subprocess.run([*command, str(folder)], check=False, capture_output=True)
            return


def _wait(process: subprocess.Popen[bytes], file: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while not file.exists():
        if process.poll() is not None:
            assert process.stderr is not None
            complaint = process.stderr.read().decode(errors="replace").strip()
            raise TryLater(f"nbdfuse did not start: {complaint[:300]}", remedy="Check /dev/fuse and the mount point.")
        if time.monotonic() > until:
            raise TryLater("nbdfuse did not start in time.", remedy="Try again.")
        time.sleep(0.05)
