"""What a master target durably knows of one machine's disks, so that it continues after a kill or a power cut.

One JSON document for each machine, replaced as a whole; layout: docs/formats/master-target.md. It contains only what is
already true on the disks: they are flushed first. Beside it, each disk that is being compared has a list of the chunks
that get their journal afterwards (``TouchedChunks``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from farshore.model.errors import Busy, Damaged, NotFound, Unsupported
from farshore.model.identifiers import DiskNumber, MachineId
from farshore.model.position import Position
from farshore.vault.stores.folder_sync import sync_folder

_FORMAT, _VERSION = "farshore-master-target", 1
Numbers = npt.NDArray[np.int64]
_ROW: np.dtype[Any] = np.dtype([("chunk", "<u8"), ("epoch", "<u4"), ("reserved", "<u4")])


class Phase(enum.Enum):
    """The phase of a disk."""

    CLAIMED = "claimed"
    """Chosen and checked; its notice may be on it or not."""
    COMPARING = "comparing"
    """Its chunks are compared with the bases at ``position``; the first ``done`` bytes hold them."""
    PATCHING = "patching"
    """It gets what journals have above the bases, up to ``position``."""
    FOLLOWING = "following"
    """Everything except its first bytes is as at ``position``, or some of it is newer."""
    RELEASED = "released"
    """It is complete, as at ``position``, and no longer written to."""


@dataclass(frozen=True)
class DiskRecord:
    """One disk. ``position`` is None before one is chosen; ``claim`` is in its notice; ``image``: the image format,
    served by QEMU; empty: raw."""

    number: DiskNumber
    path: str
    size: int
    identity: str
    claim: str
    image: str = ""
    phase: Phase = Phase.CLAIMED
    position: Position | None = None
    done: int = 0
    touched: int = 0
    """Rows of its TouchedChunks."""


@dataclass(frozen=True)
class MachineRecord:
    """One machine. ``release``: once all disks are at that position they become complete, and later writes are
    ignored."""

    vault: str
    machine: MachineId
    disks: tuple[DiskRecord, ...]
    release: Position | None = None

    @property
    def released(self) -> bool:
        """Whether every disk is complete."""
        return all(disk.phase is Phase.RELEASED for disk in self.disks)

    def with_disk(self, changed: DiskRecord) -> MachineRecord:
        """Return the record with one disk changed."""
        disks = tuple(changed if disk.number == changed.number else disk for disk in self.disks)
        return dataclasses.replace(self, disks=disks)


class RecordFolder:
    """The folder of one machine's record. A caller that changes it must hold ``locked``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other master targets off the machine. Raises Busy if one is at work."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise Busy(f"Another master target is working in {self.folder}.", remedy="Wait until it ends.") from error
        finally:
            os.close(file)

    def load(self) -> MachineRecord:
        """Read the record. Raises NotFound, Damaged, Unsupported."""
        path = self.folder / "record.json"
        try:
            return _decoded(json.loads(path.read_bytes()))
        except FileNotFoundError as error:
            raise NotFound(
                f"No disks are being written for machine {self.folder.name}.",
                remedy="Begin: farshore-master-target begin.",
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{path} is not a record.", remedy="Forget the machine, then begin again.") from error

    def save(self, record: MachineRecord) -> None:
        """Replace the record. Durable when it returns."""
        self._replace("record.json", json.dumps(_encoded(record), indent=1).encode())

    def touched(self, disk: DiskNumber) -> TouchedChunks:
        """The list of one disk."""
        return TouchedChunks(self.folder / f"touched-{disk}")

    def ask_to_finish(self, position: Position | None) -> None:
        """Record a request to make the disks complete, at a position or at the newest one. Durable when it returns."""
        self._replace("finish.json", json.dumps({"position": None if position is None else str(position)}).encode())

    def asked_to_finish(self) -> tuple[bool, Position | None]:
        """Return whether that was requested, and the position."""
        try:
            text = json.loads((self.folder / "finish.json").read_bytes())["position"]
        except FileNotFoundError:
            return False, None
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(
                f"{self.folder}/finish.json is not a request.", remedy="Run the finish command again."
            ) from error
        return True, None if text is None else Position.parse(text)

    def forget(self) -> None:
        """Delete everything except the lock. Does nothing if nothing is there."""
        for name in ("finish.json", "record.json"):  # the record last: files without a record are ignored
            (self.folder / name).unlink(missing_ok=True)
        for path in self.folder.glob("touched-*"):
            path.unlink()
        if self.folder.exists():
            sync_folder(self.folder)

    def _replace(self, name: str, data: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self.folder / f"{name}.part"
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(self.folder / name)
        sync_folder(self.folder)


class TouchedChunks:
    """Chunks that overlays or journals change, each with the epoch whose base the disk has there, in the order of the
    disk. The record says how many rows of the file are valid (``touched``); later rows are overwritten."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, before: int, chunks: Numbers, epochs: Numbers) -> int:
        """Write rows after the first ``before``; return how many there are now. Durable when it returns."""
        rows = np.zeros(len(chunks), _ROW)
        rows["chunk"], rows["epoch"] = chunks, epochs
        with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
            file.seek(before * _ROW.itemsize)
            file.write(rows.tobytes())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self._path.parent)
        return before + len(rows)

    def read(self, count: int) -> tuple[Numbers, Numbers]:
        """Return the first ``count`` chunks, which are sorted, and their epochs. Raises Damaged if they are missing."""
        data = self._path.read_bytes()[: count * _ROW.itemsize] if count else b""
        if len(data) < count * _ROW.itemsize:
            raise Damaged(f"{self._path} is truncated.", remedy="Forget the machine, then begin again.")
        rows = np.frombuffer(data, _ROW)
        return rows["chunk"].astype(np.int64), rows["epoch"].astype(np.int64)


def _encoded(record: MachineRecord) -> dict[str, Any]:
    def shown(position: Position | None) -> str | None:
        return None if position is None else str(position)

    disks = [
        {**dataclasses.asdict(disk), "phase": disk.phase.value, "position": shown(disk.position)}
        for disk in record.disks
    ]
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "vault": record.vault,
        "machine": record.machine,
        "release": shown(record.release),
        "disks": disks,
    }


def _decoded(fields: dict[str, Any]) -> MachineRecord:
    if fields["format"] != _FORMAT:
        raise ValueError("another format")
    if fields["version"] != _VERSION:
        raise Unsupported(
            f"The record has version {fields['version']}.",
            remedy="Use the release of Farshore that wrote it, or a newer one.",
        )

    def position(text: str | None) -> Position | None:
        return None if text is None else Position.parse(text)

    disks = tuple(
        DiskRecord(
            DiskNumber(int(disk["number"])),
            str(disk["path"]),
            int(disk["size"]),
            str(disk["identity"]),
            str(disk["claim"]),
            str(disk["image"]),
            Phase(disk["phase"]),
            position(disk["position"]),
            int(disk["done"]),
            int(disk["touched"]),
        )
        for disk in fields["disks"]
    )
    return MachineRecord(str(fields["vault"]), MachineId(fields["machine"]), disks, position(fields["release"]))
