"""Where the newest frame of a spool file or an .hrl file ends, and how to spoil it.

Both are used again and again, so behind what is alive lies what was alive once: the last byte that is not zero says
nothing. The product's own readers say where the newest frame is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from farshore.formats.hrl import FRAME_BYTES, HEADER_BYTES
from farshore.formats.spool import ALIGNMENT, FILE_HEADER, decode_file_header, read_frames
from farshore.mobility.stream.spill import HrlFile
from farshore.model.errors import Damaged, Malformed
from farshore.model.identifiers import MachineId

_MOST = 6000


@dataclass(frozen=True)
class Tail:
    """Live bytes are ``[begin, end)``, and ``room`` bytes behind them hold nothing that counts.

    Offset ``o`` is byte ``first + o % size`` of the file.
    """

    path: Path
    begin: int
    end: int
    room: int
    first: int
    size: int

    def spoil(self, chance: random.Random) -> bool:
        """Write garbage: into the newest frames, or behind them; whether a frame was hit."""
        live = self.end - self.begin
        hits = live > 0 and chance.random() < 0.5
        # The last bytes of a frame in the spool may be padding, which nobody misses.
        back = min(live, chance.randrange(ALIGNMENT, _MOST)) if hits else 0
        garbage = chance.randbytes(chance.randrange(1, _MOST))[: back + self.room]
        with self.path.open("r+b") as file:
            at = (self.end - back) % self.size
            whole = garbage[: self.size - at]
            file.seek(self.first + at)
            file.write(whole)
            file.seek(self.first)
            file.write(garbage[len(whole) :])
        return hits


def tail_of_spool(folder: Path) -> Tail | None:
    """Of the file with the newest frame, in a process server's spool that is at rest; None where there is none."""
    for path in sorted(folder.glob("spool-*"), reverse=True):
        data = path.read_bytes()
        try:
            number = decode_file_header(data)
        except (Malformed, Damaged):
            continue  # killed while it was made
        frames = list(read_frames(data, number))
        if frames:
            end = frames[-1].offset + frames[-1].length
            return Tail(path, FILE_HEADER.size, end, len(data) - end, 0, len(data))
    return None


def tail_of_hrl(path: Path, machine: MachineId) -> Tail:
    """Of what waits in a machine's .hrl file. Raises NotFound where it is none of this machine."""
    with HrlFile(path, machine, None) as spill:
        # One frame's header stays free: a ring that is full to the last byte has no end.
        room = max(0, spill.capacity - spill.used - FRAME_BYTES)
        return Tail(path, spill.start, spill.end, room, HEADER_BYTES, spill.capacity)
