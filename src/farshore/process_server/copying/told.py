"""Keep the comparisons that a machine sent during a base copy, beside the spool, so that they survive a restart.

A log of the comparisons as they arrived: each says which hashes a run of chunks had at some moment of the epoch. Asking
the vault about them again gives the same answers, except for chunks that were sent and had not become durable: those
count as missing, and the machine sends only them again. The log is an optimisation. Nothing is synced; what a power cut
removes, or what cannot be written, is compared again.

The logs are limited by ``Limits``, because a machine could compare the same chunks for ever. So only comparisons with a
chunk that is not in the log yet are added (by Copy), and a log that reaches its limit ends there.

Layout of ``<machine>-<epoch>.told``: docs/formats/told.md. Reading ends at the first frame that is torn or wrong.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import Iterator, NamedTuple

from farshore.formats.chunk_exchange import Comparison, decode_comparison, encode_comparison
from farshore.model.errors import Malformed
from farshore.model.identifiers import Epoch, MachineId

_log = logging.getLogger(__name__)

_FRAME = struct.Struct("<II")
_SUFFIX = ".told"
_ABANDONED_SECONDS = 30 * 86400.0


class ToldLimits(NamedTuple):
    """Bytes of one machine's log, and of all logs in the folder."""

    each: int = 512 << 20
    together: int = 2 << 30


LIMITS = ToldLimits()


class ToldLog:
    """The log of one epoch's copy. Comparisons may be added by several threads."""

    def __init__(self, folder: Path, machine: MachineId, epoch: Epoch, limits: ToldLimits = LIMITS) -> None:
        self._limits = limits
        self.path = folder / f"{machine}-{epoch}{_SUFFIX}"
        self._lock = threading.Lock()
        self._descriptor = -1
        self._given_up = False

    def replay(self) -> Iterator[Comparison]:
        """Yield the comparisons from before a restart, oldest first; a torn end is truncated. Call before add."""
        try:
            data = memoryview(self.path.read_bytes())
        except FileNotFoundError:
            return
        at = 0
        while at + _FRAME.size <= len(data):
            length, checksum = _FRAME.unpack_from(data, at)
            body = data[at + _FRAME.size : at + _FRAME.size + length]
            if len(body) < length or zlib.crc32(body) != checksum:
                break
            try:
                yield decode_comparison(zlib.decompress(body))
            except (zlib.error, Malformed):
                break
            at += _FRAME.size + length
        if at < len(data):
            os.truncate(self.path, at)

    def add(self, comparison: Comparison) -> None:
        """Add a comparison. If the disk does not accept it, the log ends there."""
        body = zlib.compress(b"".join(encode_comparison(comparison)), 1)
        with self._lock:
            if self._given_up:
                return
            try:
                if self._descriptor < 0:
                    self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                    self._descriptor = os.open(self.path, flags, 0o600)
                frame = _FRAME.pack(len(body), zlib.crc32(body)) + body
                if not self._fits(len(frame)):
                    self._given_up = True
                    _log.warning("%s has reached its limit. After a restart the rest is compared again.", self.path)
                    return
                if os.write(self._descriptor, frame) < len(frame):
                    self._given_up = True  # reading ends at the torn frame
            except OSError as error:
                self._given_up = True
                _log.warning("%s is not continued: %s. After a restart the rest is compared again.", self.path, error)

    def _fits(self, length: int) -> bool:
        sizes = {path.name: path.stat().st_size for path in self.path.parent.glob(f"*{_SUFFIX}")}
        return (
            sizes.get(self.path.name, 0) + length <= self._limits.each
            and sum(sizes.values()) + length <= self._limits.together
        )

    def close(self, *, forget: bool) -> None:
        """Stop writing; ``forget``: delete the log, because nobody needs it any longer."""
        with self._lock:
            self._given_up = True
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
        if forget:
            self.path.unlink(missing_ok=True)


def sweep(folder: Path, machine: MachineId, epoch: Epoch) -> None:
    """Delete the logs of a machine's older epochs, and those that nobody has written to for a month."""
    if not folder.is_dir():
        return
    for path in folder.glob(f"*{_SUFFIX}"):
        of, _, number = path.name.removesuffix(_SUFFIX).rpartition("-")
        older = of == machine and number.isdigit() and int(number) < epoch
        if older or path.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
            path.unlink(missing_ok=True)
