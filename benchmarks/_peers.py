"""The peers that a vault is measured beside: qemu-img, borg and restic, where they are installed.

All compress with zstd (borg 3, restic's default, qemu-img's default); borg and restic encrypt, qemu-img does not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Protocol


class Peer(Protocol):
    """A tool that backs up an image and restores it."""

    name: str

    def backup(self) -> float:
        """Seconds of a backup of the image as it is now."""
        ...

    def stored(self) -> int:
        """Bytes that its repository takes."""
        ...

    def restore(self, target: Path) -> float:
        """Seconds to write the newest backup to ``target``."""
        ...


class QemuImg:
    """qemu-img convert to a zstd qcow2; it has no increments of its own, so a backup is a full one."""

    name = "qemu-img zstd qcow2"

    def __init__(self, image: Path, folder: Path) -> None:
        self._image, self._file = image, folder / "image.qcow2"

    def backup(self) -> float:
        options = ["-c", "-O", "qcow2", "-o", "compression_type=zstd"]
        return _timed(["qemu-img", "convert", "-f", "raw", *options, str(self._image), str(self._file)])

    def stored(self) -> int:
        return self._file.stat().st_size

    def restore(self, target: Path) -> float:
        began = time.monotonic()
        _timed(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(self._file), str(target)])
        with target.open("rb") as file:
            os.fsync(file.fileno())
        return time.monotonic() - began


class Borg:
    """borg with fixed 64 KiB chunks, zstd 3, encrypted."""

    name = "borg 64 KiB"

    def __init__(self, image: Path, folder: Path) -> None:
        self._image, self._repository, self._count = image, folder / "borg", 0
        self._environment = {
            **os.environ,
            "BORG_PASSPHRASE": "benchmark",
            "BORG_BASE_DIR": str(folder / "borg-home"),
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }
        _timed(["borg", "init", "--encryption", "repokey-blake2", str(self._repository)], self._environment)

    def backup(self) -> float:
        self._count += 1
        archive = f"{self._repository}::{self._count}"
        options = ["--chunker-params", "fixed,65536", "--compression", "zstd,3", "--files-cache", "disabled"]
        return _timed(["borg", "create", *options, archive, str(self._image)], self._environment)

    def stored(self) -> int:
        return _size(self._repository)

    def restore(self, target: Path) -> float:
        command = ["borg", "extract", "--stdout", f"{self._repository}::{self._count}"]
        return _timed(command, self._environment, target)


class Restic:
    """restic, encrypted; its default chunker and compression."""

    name = "restic"

    def __init__(self, image: Path, folder: Path) -> None:
        self._image, self._repository = image, folder / "restic"
        self._environment = {
            **os.environ,
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(folder / "restic-cache"),
        }
        self._run = ["restic", "--repo", str(self._repository), "--quiet"]
        _timed([*self._run, "init"], self._environment)

    def backup(self) -> float:
        return _timed([*self._run, "backup", "--force", str(self._image)], self._environment)

    def stored(self) -> int:
        return _size(self._repository)

    def restore(self, target: Path) -> float:
        return _timed([*self._run, "dump", "latest", str(self._image)], self._environment, target)


def peers(image: Path, folder: Path) -> list[Peer]:
    """Those that are installed here, each with a repository of its own below ``folder``."""
    found: list[Peer] = []
    for command, kind in (("qemu-img", QemuImg), ("borg", Borg), ("restic", Restic)):
        if shutil.which(command):
            found.append(kind(image, folder))
    return found


def _timed(command: list[str], environment: dict[str, str] | None = None, target: Path | None = None) -> float:
    began = time.monotonic()
    if target is None:
        subprocess.run(command, check=True, env=environment, capture_output=True)
    else:
        with target.open("wb") as file:
            subprocess.run(command, check=True, env=environment, stdout=file)
            os.fsync(file.fileno())
    return time.monotonic() - began


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
