"""The receiving side of a stream without sockets: the process server's own parts, a spool whose power can go, a vault.

Everything but the listener is the product's: grants, streams, lanes, the spool log, segments. Uploading happens when
it is told to, so that a test decides what is in the spool and what in the vault when the power goes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from tests.unit.process_server.crashable_disk import CrashableDisk
from tests.unit.process_server.simulated_agent import description
from tests.unit.vault.faulty_store import KillableStore
from tests.unit.vault.synthetic import MACHINE

from farshore.api_types.machines import EpochKind
from farshore.api_types.servers import StreamGrant
from farshore.api_types.streams import Acknowledgement
from farshore.formats import batch as batches
from farshore.formats.batch import Role
from farshore.model.errors import FarshoreError, Fenced
from farshore.model.identifiers import Epoch
from farshore.process_server.data_plane.incoming import read_batch
from farshore.process_server.spool.log import SpoolLog
from farshore.process_server.storing.segments import store_frames
from farshore.process_server.streams.grants import Grants
from farshore.process_server.streams.registry import Streams
from farshore.process_server.streams.stream import Stream
from farshore.process_server.streams.time_axis import Timing
from farshore.vault import Vault

_FILE_BYTES = 64 << 10
_LIMIT = 4 << 20


class FarSide:
    """``granted``: the machine's one open epoch. ``store`` may be told to refuse."""

    def __init__(self, folder: Path, vault: Vault, size: int) -> None:
        self.disk = CrashableDisk(folder / "spool")
        self.store = KillableStore(vault.store)
        self.granted = 0
        self._description = description(size)
        self._key = bytes.fromhex(vault.key_hex)
        self._begin()

    def stream(self, machine: str, epoch: int) -> StreamGrant:
        """What the configuration server says (a GrantSource)."""
        if epoch != self.granted:
            raise Fenced(f"Epoch {epoch} is closed.", remedy="")
        return StreamGrant(machine=machine, epoch=epoch, kind=EpochKind.RESYNC, description=self._description)

    def receive(self, data: bytes) -> Acknowledgement:
        """One request with a batch, as the data plane handles it."""
        batch = batches.decode(data)
        stream, grant = self.streams.granted(batch.machine, batch.epoch, "")
        stream.receive(read_batch(data, grant), Timing(time.monotonic(), 0))
        return Acknowledgement(
            next_journal=stream.next_sequence(Role.JOURNAL), next_base=stream.next_sequence(Role.BASE)
        )

    def grant(self, epoch: int, *, by_request: bool = False) -> None:
        """The configuration server opens an epoch; this server hears of it by the answer to a
        report, or by the first request of it."""
        self.granted = epoch
        if by_request:
            self.streams.granted(MACHINE, Epoch(epoch), "")
        else:
            open_streams = [(one.machine, one.epoch) for one in self.streams.all()]
            self.streams.close(key for key in open_streams if key[1] != epoch)

    def upload(self) -> None:
        """Put what waits into the vault, as far as the store takes it."""
        for stream in self.streams.all():
            for lane in stream.lanes.values():
                while lane.waiting:
                    frames = lane.take(0.0)
                    try:
                        self._store(stream, lane, frames)
                    except (FarshoreError, OSError):  # the store, or the spool while it lets go of a file
                        return
                    finally:
                        lane.is_free()

    def _store(self, stream: Stream, lane: object, frames: object) -> None:
        for stored in store_frames(stream, frames):  # type: ignore[arg-type]
            with stream.changed:
                lane.is_stored(stored.frames, stored.last_time, 0.0)  # type: ignore[attr-defined]
            self.log.release(stored.frames)

    def durable(self, epoch: int) -> int:
        """The sequence after the last that is in spool or vault."""
        return self.streams.find(MACHINE, Epoch(epoch)).next_sequence(Role.JOURNAL)

    def lose_power(self, seed: int) -> None:
        """What was not synced is kept, torn or gone; then start again."""
        self.disk.cut_in = 0
        self.log.stop()
        self.disk.power_back(seed)
        self._begin()

    def restart(self) -> None:
        """End cleanly and start again."""
        self.log.stop()
        self._begin()

    def close(self) -> None:
        """End."""
        self.log.stop()

    def _begin(self) -> None:
        # A server that cannot read the vault waits until it can: nobody is answered before.
        self.store.refusal = None
        self.log = SpoolLog(self.disk, _LIMIT, _FILE_BYTES)
        frames = self.log.recover()
        vault = Vault.open_with_vault_key(self.store, self._key)
        ignore = contextlib.nullcontext
        self.streams = Streams(vault, self.log, Grants(self), opened=ignore, closed=ignore, wake=lambda _: None)
        self.streams.recovered(frames)
        self.log.start()
        assert not self.streams.resume(threading.Event())
