"""Connect the agents of recovered machines on isolated networks to their servers, and to nothing else.

This applies to each machine that is replicated from its site, or whose agent must remove itself there, if the site can
forward connections into it (``sites.port.Leading``). A few connections into the machine are kept open;
farshore.model.led_out describes the protocol on them. An agent may reach only ``servers``: names and ports as the
agents know them, with the addresses at which this host reaches them. The work runs in its own thread and finds
everything again after a restart.

A machine that must run a script as a check is connected at a separate port, only to this server and only while the
script is awaited. At that port only the part of its agent listens that runs such scripts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from farshore.catalog import failovers, guest_scripts, machines
from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow, MachineRow
from farshore.model.errors import FarshoreError
from farshore.model.led_out import LONGEST_LINE, NO, OK, PORT, SCRIPT_PORT, read_wish
from farshore.model.states import UP, MachineState
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.steps.migrate import awaits_agent
from farshore.sites.port import Leading

log = logging.getLogger(__name__)

Server = tuple[str, int]
Servers = Callable[[], Mapping[Server, Server]]
_Led = tuple[str, int]
"""A failover, and the port of its guest."""

IDLE = 3
"""Connections that are open and wait."""
MOST = 48
"""Connections into one machine: the agent keeps some twenty."""
_PAUSE_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
_PIECE = 1 << 18
_REPLICATED = frozenset({MachineState.RESYNC.value, MachineState.PROTECTED.value})


class LeadingOut:
    """Call ``look`` every few seconds, which opens and closes connections as needed, and ``close`` at the end."""

    def __init__(self, context: RecoveryContext, servers: Servers, own: Servers) -> None:
        """``own``: the part of ``servers`` that is this server itself."""
        self._context = context
        self._servers = {PORT: servers, SCRIPT_PORT: own}
        self._machines: dict[_Led, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def look(self) -> None:
        """Connect the machines whose agents need it, and no others."""
        wanted = self._wanted()
        if self._loop is None and not wanted:
            return
        loop = self._running()
        asyncio.run_coroutine_threadsafe(self._settle(wanted), loop).result(_CONNECT_SECONDS)

    def close(self) -> None:
        """Close every connection."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), loop).result(2 * _CONNECT_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    async def _end(self) -> None:
        ended = list(self._machines.values())
        await self._settle({})
        await asyncio.gather(*ended, return_exceptions=True)

    def _wanted(self) -> dict[_Led, Leading]:
        with self._context.catalog.reading() as tx:
            up = [(row, machines.get(tx, row.machine)) for row in failovers.in_states(tx, UP) if not row.stopped]
            checked = guest_scripts.failovers_waiting(tx)
            owned = [((row.id, PORT), row.site) for row, one in up if _sends(row, one) and _is_led(tx, row, one)]
            owned += [((row.id, SCRIPT_PORT), row.site) for row, _ in up if row.id in checked]
        sites = {led: self._context.site(site) for led, site in owned}
        return {led: site for led, site in sites.items() if isinstance(site, Leading)}

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="leading out", daemon=True)
            self._thread.start()
        return self._loop

    async def _settle(self, wanted: Mapping[_Led, Leading]) -> None:
        for led in self._machines.keys() - wanted.keys():
            self._machines.pop(led).cancel()
        for led, site in wanted.items():
            task = self._machines.get(led)
            if task is None or task.done():
                failover, guest = led
                way = _Way(failover, guest, site, self._servers[guest])
                self._machines[led] = asyncio.get_running_loop().create_task(way.keep())


def _is_led(tx: Transaction, row: FailoverRow, machine: MachineRow) -> bool:
    """Return whether its agent needs a server: the machine is replicated, or was migrated and its agent has not removed
    itself yet."""
    return machine.state in _REPLICATED or (failovers.migrates(row) and awaits_agent(tx, row, machine))


def _sends(row: FailoverRow, machine: MachineRow) -> bool:
    """Return whether the machine's stream comes from what the failover brought up."""
    if failovers.has_come_home(row):
        return not machine.site and machine.hardware_id == row.id
    return machine.site == row.site and machine.owner == row.id


@dataclass
class _Way:
    """The connections into one machine."""

    failover: str
    guest: int
    """The port of the guest."""
    site: Leading
    servers: Servers

    async def keep(self) -> None:
        """Keep the required number of connections open until cancelled."""
        connections: set[asyncio.Task[None]] = set()
        idle = 0

        def taken() -> None:
            nonlocal idle
            idle -= 1
            room.set()

        def ended(task: asyncio.Task[None]) -> None:
            connections.discard(task)
            room.set()

        room = asyncio.Event()
        try:
            while True:
                port = await self._port()
                if not port:
                    await asyncio.sleep(_PAUSE_SECONDS)
                    continue
                while idle < IDLE and len(connections) < MOST:
                    idle += 1
                    task = asyncio.get_running_loop().create_task(self._connection(port, taken))
                    task.add_done_callback(ended)
                    connections.add(task)
                await room.wait()
                room.clear()
        finally:
            ended_now = list(connections)
            for task in ended_now:
                task.cancel()
            await asyncio.gather(*ended_now, return_exceptions=True)

    async def _port(self) -> int:
        try:
            return await asyncio.to_thread(self.site.lead_in, failover_id(self.failover), self.guest)
        except (FarshoreError, OSError) as error:
            log.info("No connection into failover %s yet: %s", self.failover, error)
            return 0

    async def _connection(self, port: int, taken: Callable[[], None]) -> None:
        waiting = True
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_PIECE)
            with contextlib.closing(writer):
                line = await reader.readline()
                if not line:  # nobody listens in the guest (yet), or it has ended
                    await asyncio.sleep(_PAUSE_SECONDS)
                    return
                waiting = False
                taken()
                await self._serve(line[:LONGEST_LINE], reader, writer)
        except (OSError, ValueError):
            if waiting:
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            if waiting:
                taken()

    async def _serve(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = read_wish(line)
        address = None if asked is None else (await asyncio.to_thread(self.servers)).get(asked)
        if address is None:
            log.warning("The agent of failover %s requested %r, which is not one of its servers.", self.failover, line)
            writer.write(NO)
            await writer.drain()
            return
        try:
            connecting = asyncio.open_connection(*address, limit=_PIECE)
            there, to_there = await asyncio.wait_for(connecting, _CONNECT_SECONDS)
        except (OSError, TimeoutError):
            writer.write(NO)
            await writer.drain()
            return
        with contextlib.closing(to_there):
            writer.write(OK)
            await asyncio.gather(_carry(reader, to_there), _carry(there, writer))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
