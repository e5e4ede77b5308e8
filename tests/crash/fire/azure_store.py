"""The vault in Azurite, whose own port is in this network namespace; a bridge carries what comes from the servers'.

The bridge can break off and refuse connections, or go silent. Azurite itself is neither killed nor held: it writes its
index down every few seconds only, so that what it acknowledged would be lost, and a held one would hold the judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.contract.doubles import azurite
from tests.crash.fire.namespaces import inside

_PIECE = 256 << 10


class AzureStore:
    """``port``: Azurite's, on the loopback of this namespace; it has the same on that of the other."""

    def __init__(self, url: str, port: int, namespace: str) -> None:
        self.url = url
        self._port = port
        with inside(namespace):
            self._listener = socket.create_server(("127.0.0.1", port))
        self._loop = asyncio.new_event_loop()
        self._under_way: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._open = asyncio.Event()
        self._open.set()
        self._thread = threading.Thread(target=self._run, name="bridge", daemon=True)
        self._thread.start()

    def refuse(self) -> None:
        """Break off what is under way, and take nothing new."""
        self._loop.call_soon_threadsafe(self._break_off)

    def hold(self) -> None:
        """Carry nothing, in either direction."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def deliver(self) -> None:
        """Carry everything again."""
        self._refusing = False
        self._loop.call_soon_threadsafe(self._open.set)

    def close(self) -> None:
        """End."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._end())
        self._loop.close()
        self._listener.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._take, sock=self._listener))
        self._loop.run_forever()

    async def _end(self) -> None:
        self._server.close()
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await asyncio.sleep(0.1)  # connections are closed in a turn of their own

    def _break_off(self) -> None:
        self._refusing = True
        for task in self._under_way:
            task.cancel()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            if not self._refusing:
                there, back = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    await asyncio.gather(self._carry(reader, back), self._carry(there, writer))
                finally:
                    back.close()
        except (OSError, asyncio.CancelledError):
            pass  # broken off, by either side or by us
        finally:
            self._under_way.discard(task)
            writer.close()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(_PIECE):
            await self._open.wait()
            target.write(data)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()


@contextlib.contextmanager
def azure_store(namespace: str) -> Iterator[AzureStore]:
    """The store, reached from this network namespace and another; the environment of programs opens it meanwhile."""
    before = dict(os.environ)
    with azurite() as (url, environment):
        port = urlsplit(environment["AZURE_STORAGE_ENDPOINT"]).port
        assert port is not None
        store = AzureStore(url, port, namespace)
        os.environ.update(environment)
        try:
            yield store
        finally:
            os.environ.clear()
            os.environ.update(before)
            store.close()
