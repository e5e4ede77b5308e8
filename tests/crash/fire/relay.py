"""A program: carries TCP connections from the advertised address to the servers, as well as a control file says.

The control file holds JSON: ``delay`` in seconds for each piece, ``rate`` in bytes a second for each direction of each
connection (0: as fast as it goes), ``cut``: the chance that a piece ends its connection instead of being carried, and
``seed``: which pieces do, counted from when the file was written.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from pathlib import Path

PIECE = 64 << 10


class Weather:
    """What the control file says, read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.delay = self.rate = self.cut = 0.0
        self._chance = random.Random(0)

    def look(self) -> None:
        changed = self._path.stat().st_mtime_ns
        if changed != self._read:
            self._read = changed
            said = json.loads(self._path.read_text())
            self.delay, self.rate, self.cut = float(said["delay"]), float(said["rate"]), float(said["cut"])
            self._chance.seed(said["seed"])

    def cuts(self) -> bool:
        """Whether the next piece ends its connection."""
        return self._chance.random() < self.cut


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, weather: Weather) -> None:
    """One direction, to its end."""
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE):
            weather.look()
            if weather.cuts():
                writer.transport.abort()
                return
            if weather.delay:
                await asyncio.sleep(weather.delay)
            if weather.rate:
                await asyncio.sleep(len(data) / weather.rate)
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


async def serve(address: str, port: int, weather: Weather) -> None:
    """Take connections on ``address`` for ever."""

    async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(carry(reader, far_writer, weather), carry(far_reader, writer, weather))

    server = await asyncio.start_server(taken, address, port, limit=PIECE)
    await server.serve_forever()


async def main(control: str, *places: str) -> None:
    """Until killed. ``places``: address:port each."""
    weather = Weather(Path(control))
    weather.look()
    await asyncio.gather(
        *(serve(address, int(port), weather) for address, port in (place.split(":") for place in places))
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
