"""The file of a backup: written and read as a stream, sealed under its own key, which the owner's key opens.

It contains lines of JSON: files of the installation first, then the tables of the catalog, each followed by its rows. A
reader gets nothing before the index at the file's end is known to be authentic.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from farshore.catalog.dump import Piece
from farshore.formats.backup import Head, container_name
from farshore.formats.container import PACK_LIMIT, PACK_ROW, Kind, Trailer, pack_offsets
from farshore.model.errors import Damaged, NotFound, Refused, WrongKey
from farshore.vault.keys.owner_keys import KeyWrapper
from farshore.vault.objects.sealing import PackOpener, Sealer, SealingKey, open_index

Line = dict[str, Any] | list[Any]


@dataclass(frozen=True)
class BackupContents:
    """What a backup holds. ``time`` in ns; ``epoch``: the highest that was granted; ``records``: for each kind, the
    newest record in the vault at that time (its generation and version), None if the vault was unreachable."""

    installation: str
    vault: str
    generation: int
    time: int
    epoch: int
    release: str
    schema: str
    records: Mapping[str, list[int]] | None
    rows: Mapping[str, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it for the index, and for the program that shows it."""
        return {"format": 1, **asdict(self)}


class BackupWriter:
    """Writes a new file, mode 0600. The file appears, complete, when ``finish`` returns."""

    def __init__(self, path: Path, owner: KeyWrapper, vault: str) -> None:
        """Raises Refused if the file exists or cannot be created; KeyWrapper's errors."""
        secret = secrets.token_bytes(32)
        head = Head(vault, owner.wrap(secret, vault)).encode()
        self._sealer, self._name = Sealer(SealingKey(secret), Kind.DOCUMENT), container_name(head)
        self._path, self._partial = path, path.with_name(f"{path.name}.part")
        self._waiting, self._rows = bytearray(), []  # type: tuple[bytearray, list[tuple[int, int, int]]]
        if path.exists():
            raise Refused(f"{path} exists.", remedy="Choose another name; a backup is never overwritten.")
        try:
            self._partial.unlink(missing_ok=True)
            self._file = os.fdopen(os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        except OSError as error:
            raise Refused(f"{path} cannot be written: {error.strerror}.", remedy="Choose another place.") from error
        self._file.write(head + self._sealer.header.encode())

    def __enter__(self) -> BackupWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def add(self, line: Line) -> None:
        """Append one line."""
        self._waiting += json.dumps(line, separators=(",", ":")).encode() + b"\n"
        while len(self._waiting) >= PACK_LIMIT:
            self._seal(self._waiting[:PACK_LIMIT])
            del self._waiting[:PACK_LIMIT]

    def finish(self, contents: BackupContents) -> int:
        """Write the index and put the file in its place; return its size."""
        if self._waiting:
            self._seal(self._waiting)
        rows = np.array(self._rows, PACK_ROW)
        index = json.dumps(contents.as_json(), sort_keys=True, separators=(",", ":")).encode() + rows.tobytes()
        for buffer in self._sealer.finish(self._name, index, rows):
            self._file.write(buffer)
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        try:
            os.link(self._partial, self._path)  # create only, never replace
        except FileExistsError as error:
            raise Refused(f"{self._path} exists.", remedy="Choose another name.") from error
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return size

    def _seal(self, data: bytearray) -> None:
        ordinal = self._sealer.reserve(1)
        sealed = self._sealer.pack(bytes(data), ordinal)
        self._file.write(sealed)
        self._rows.append((len(data), len(sealed), ordinal))


class Backup:
    """A backup that the owner's key opened; ``contents`` is known to be authentic."""

    def __init__(self, path: Path, owner: KeyWrapper) -> None:
        """Raises NotFound, Damaged, Unsupported, WrongKey, KeyWrapper's errors."""
        self._path = path
        data = _mapped(path)
        head, begin = Head.decode(data[: 128 << 10], str(path))
        secret = owner.unwrap(head.slot, head.vault)
        if secret is None:
            raise WrongKey(
                f"This key does not open {path}.",
                remedy="Give the vault owner's key of the time of the backup.",
            )
        key, name = SealingKey(secret), container_name(bytes(data[:begin]))
        self._data = data[begin:]
        trailer = Trailer.decode(self._data, len(self._data), str(path))
        sealed = self._data[trailer.index_offset : trailer.index_offset + trailer.index_stored]
        index = open_index(key, trailer, sealed, name)
        length = len(index) - trailer.packs * PACK_ROW.itemsize
        self._packs = np.frombuffer(index, PACK_ROW, trailer.packs, length)
        self._opener = PackOpener(key, trailer.header.salt, str(path))
        try:
            fields = json.loads(index[:length])
            del fields["format"]
            self.contents = BackupContents(**fields)
        except (KeyError, TypeError, ValueError) as cause:
            raise self._damaged() from cause

    def check(self) -> None:
        """Read all of it. Raises Damaged."""
        for _ in self._lines():
            pass

    def files(self) -> list[dict[str, str]]:
        """Return the installation's files, as farshore.configuration_server.kept_files has them. Raises Damaged."""
        found = []
        for line in self._lines():
            if not isinstance(line, dict) or "name" not in line:
                break
            found.append({str(name): str(value) for name, value in line.items()})
        return found

    def tables(self) -> Iterator[Piece]:
        """Yield the catalog's rows, for farshore.catalog.dump.load. Raises Damaged."""
        table, columns, rows = "", [], []  # type: tuple[str, list[str], list[list[Any]]]
        for line in self._lines():
            if isinstance(line, list):
                rows.append(line)
            if table and rows and (isinstance(line, dict) or len(rows) == 500):
                yield table, columns, rows
                rows = []
            if isinstance(line, dict) and "table" in line:
                table, columns = line["table"], line["columns"]
        if table and rows:
            yield table, columns, rows

    def _lines(self) -> Iterator[Line]:
        rest, offsets = b"", pack_offsets(self._packs)
        for number, row in enumerate(self._packs):
            sealed = self._data[int(offsets[number]) : int(offsets[number + 1])]
            rest += bytes(self._opener.open(sealed, int(row["ordinal"]), int(row["raw"])))
            *lines, rest = rest.split(b"\n")
            try:
                yield from (json.loads(line) for line in lines)
            except ValueError as cause:
                raise self._damaged() from cause
        if rest:
            raise self._damaged()

    def _damaged(self) -> Damaged:
        return Damaged(f"{self._path} is not a backup of `farshore server backup`.", remedy="Use another backup.")


def _mapped(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}.", remedy="Give the path of a backup.") from error
    except ValueError as error:  # the file is empty
        raise Damaged(f"{path} is empty.", remedy="Use another backup.") from error
