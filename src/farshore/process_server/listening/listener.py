"""The listening socket, the watcher of idle connections, and the workers.

Compared with cheroot by measurement before it was chosen (docs/decisions/2026-11-22-data-plane-server.md). What matters
is that bodies are read into existing buffers, that a handshake or an idle machine uses no thread, and that many small
requests cost little.

A client that has not shown a certificate yet is a stranger. The number of strangers is limited, in all and from one
address, and so is their time; when the limit is reached the oldest stranger is disconnected. A machine with too many
connections loses those that it used least recently. So nobody can keep a machine out, with a certificate or without.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import select
import socket
import ssl
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from farshore.model.errors import FarshoreError, Refused
from farshore.process_server.listening.body_buffers import BodyBuffers
from farshore.process_server.listening.connection import Connection, ConnectionLost, Turn, too_large
from farshore.process_server.listening.exchange import Answer, Handler, Request
from farshore.process_server.listening.peer import Peer
from farshore.process_server.listening.problems import problem_answer
from farshore.process_server.listening.turns import Turns

_log = logging.getLogger(__name__)

WORKERS = 32
CONNECTIONS = 4096
EACH = 64
"""Connections of one peer."""
STRANGERS_EACH = 128
"""Connections from one address without a certificate so far; many machines may be behind one address."""
IDLE_SECONDS = 300.0
HANDSHAKE_SECONDS = 15.0
"""From the first byte to the last, whatever their pace; the same for HEAD_SECONDS."""
HEAD_SECONDS = 15.0
_TICK_SECONDS = 1.0
_ACCEPT_AT_ONCE = 64
_OTHER_FILES = 256
"""Descriptors that are reserved for the spool and the store."""
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_ONCE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT


class Listener:
    """``port`` 0 chooses a free one; ``address`` returns it. Bodies in progress take at most workers × body limit.
    ``connections`` is the maximum at once, within the process's limit of open files."""

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext,
        handler: Handler,
        *,
        workers: int = WORKERS,
        connections: int = CONNECTIONS,
    ) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(64, min(connections, files - _OTHER_FILES))
        self._context = context
        self._handler = handler
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=512, dualstack_ipv6=host == "::")
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        self._socket.setblocking(False)
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._busy: set[int] = set()
        self._strangers: dict[int, Connection] = {}
        """The oldest first."""
        self._addresses: Counter[str] = Counter()
        """The number of them from each address."""
        self._accepting = True
        self._lock = threading.Lock()
        self._buffers = BodyBuffers()
        self._turns = Turns(workers)
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="data-plane")
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="data-plane-watcher", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        name = self._socket.getsockname()
        return name[0], name[1]

    def start(self) -> None:
        """Begin to accept."""
        self._epoll.register(self._socket.fileno(), select.EPOLLIN)
        self._watcher.start()

    def use(self, context: ssl.SSLContext) -> None:
        """Use this certificate for new connections, and accept only certificates of its authorities."""
        self._context = context

    def stop(self) -> None:
        """Answer the requests in progress, then close everything."""
        self._stopping.set()
        self._watcher.join()
        self._workers.shutdown(wait=True)
        self._socket.close()
        with self._lock:
            connections = list(self._connections.values())
            self._connections.clear()
        for connection in connections:
            connection.close()
        self._epoll.close()

    def _watch(self) -> None:
        last_sweep = time.monotonic()
        while not self._stopping.is_set():
            for descriptor, _ in self._epoll.poll(_TICK_SECONDS):
                if descriptor == self._socket.fileno():
                    self._accept()
                    continue
                with self._lock:
                    connection = self._connections.get(descriptor)
                    self._busy.add(descriptor)
                if connection is not None:
                    self._workers.submit(self._work, connection)
            if time.monotonic() - last_sweep > _TICK_SECONDS:
                last_sweep = time.monotonic()
                self._sweep(last_sweep)

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                raw, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                _log.warning("A connection could not be accepted: %s.", error)
                if error.errno in _EXHAUSTED:
                    # It stays readable while somebody waits to be accepted: do not look before the next sweep.
                    self._epoll.unregister(self._socket.fileno())
                    self._accepting = False
                    return
                continue  # that one is gone
            if not self._has_room(address[0]):
                raw.close()
                continue
            try:
                connection = Connection(raw, self._context)
            except OSError:
                raw.close()  # reset before it was accepted
                continue
            with self._lock:
                self._connections[connection.fileno()] = connection
                self._strangers[connection.fileno()] = connection
                self._addresses[connection.host] += 1
            try:
                self._epoll.register(connection.fileno(), _ONCE)
            except OSError as error:
                _log.warning("A connection could not be watched: %s.", error)
                self._close(connection)

    def _has_room(self, host: str) -> bool:
        """Return whether one more connection from an address is allowed; disconnect a stranger if necessary."""
        with self._lock:
            if self._addresses[host] >= STRANGERS_EACH:
                return False
            if len(self._connections) < self._most and len(self._strangers) < self._most // 2:
                return True
            oldest = next((one for number, one in self._strangers.items() if number not in self._busy), None)
            if oldest is None:
                return False
            self._busy.add(oldest.fileno())
        self._close(oldest)
        return True

    def _sweep(self, now: float) -> None:
        if not self._accepting:
            self._epoll.register(self._socket.fileno(), select.EPOLLIN)
            self._accepting = True
        idle: dict[Peer, list[Connection]] = {}
        counts: Counter[Peer] = Counter()
        with self._lock:
            old: list[Connection] = []
            for descriptor, connection in self._connections.items():
                if connection.peer is not None:
                    counts[connection.peer] += 1
                if descriptor in self._busy:
                    continue
                if _is_over(connection, now):
                    old.append(connection)
                elif connection.peer is not None:
                    idle.setdefault(connection.peer, []).append(connection)
            for peer, count in counts.items():
                if count > EACH:
                    least = sorted(idle.get(peer, ()), key=lambda one: one.last_used)[: count - EACH]
                    _log.warning("%s %s holds %d connections; %d are closed.", peer.kind, peer.name, count, len(least))
                    old += least
            self._busy.update(connection.fileno() for connection in old)
        for connection in old:
            self._close(connection)

    def _is_known(self, connection: Connection) -> None:
        """Note that a stranger has shown its certificate."""
        with self._lock:
            self._no_stranger(connection.fileno())

    def _no_stranger(self, descriptor: int) -> None:
        found = self._strangers.pop(descriptor, None)
        if found is not None:
            self._addresses[found.host] -= 1
            if not self._addresses[found.host]:
                del self._addresses[found.host]

    def _work(self, connection: Connection, admitted: bool = False) -> None:
        try:
            while True:
                turn = Turn.REQUEST if admitted else connection.advance()
                if connection.peer is not None and connection.fileno() in self._strangers:
                    self._is_known(connection)
                if turn is Turn.REQUEST:
                    if not admitted and not self._turns.enter(connection):
                        return
                    admitted = False
                    try:
                        turn = connection.answer(self._serve(connection))
                    finally:
                        self._go_on(self._turns.leave(connection.peer))
                    if turn is Turn.WATCH and connection.has_more():
                        continue
                break
        except ConnectionLost:
            turn = Turn.CLOSE
        except Exception:  # a bug of ours must cost one connection, not a worker  # noqa: BLE001
            _log.exception("A request from %s failed.", connection.address)
            turn = Turn.CLOSE
        if turn is Turn.CLOSE or self._stopping.is_set():
            self._close(connection)
            return
        with self._lock:
            self._busy.discard(connection.fileno())
        self._epoll.modify(connection.fileno(), _ONCE)

    def _go_on(self, waited: Connection | None) -> None:
        """Work on a request whose turn has come."""
        if waited is None:
            return
        try:
            self._workers.submit(self._work, waited, True)
        except RuntimeError:
            if not self._stopping.is_set():  # otherwise it is closed with all others
                raise

    def _serve(self, connection: Connection) -> Answer:
        head = connection.head
        assert head is not None
        kept: list[memoryview] = []
        path = head.target.decode("ascii").partition("?")[0]
        with contextlib.ExitStack() as lent:

            def body(limit: int) -> memoryview:
                if not kept:
                    if connection.length > limit:
                        raise too_large(connection.length, limit)
                    buffer = lent.enter_context(self._buffers.lend(connection.length))
                    connection.read_body(buffer)
                    kept.append(buffer)
                return kept[0]

            request = Request(
                head.method.decode("ascii"),
                path,
                connection.peer,
                connection.length,
                body,
                connection.arrived,
                connection.sent,
            )
            try:
                return self._handler(request)
            except FarshoreError as error:
                return problem_answer(error)

    def _close(self, connection: Connection) -> None:
        descriptor = connection.fileno()
        with self._lock:
            self._connections.pop(descriptor, None)
            self._busy.discard(descriptor)
            self._no_stranger(descriptor)
        # Before the descriptor is closed, so that its number cannot be reused while it is still watched.
        if descriptor >= 0:
            with contextlib.suppress(FileNotFoundError):  # it could not be watched
                self._epoll.unregister(descriptor)
        connection.close()


def _is_over(connection: Connection, now: float) -> bool:
    """Return whether an idle connection has reached its time limit."""
    if connection.peer is None:
        return now - connection.began > HANDSHAKE_SECONDS
    if connection.head_began:
        return now - connection.head_began > HEAD_SECONDS
    return now - connection.last_used > IDLE_SECONDS


def _cannot_listen(host: str, port: int, error: OSError) -> Refused:
    remedies = {
        errno.EADDRINUSE: f"Stop what listens there (ss -ltnp 'sport = :{port}'), or choose another port.",
        errno.EACCES: "Ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a higher one.",
        errno.EADDRNOTAVAIL: "That address is not this host's: listen on one of `ip address`, or on 0.0.0.0.",
    }
    remedy = remedies.get(error.errno or 0, "Check the address and the port in the settings.")
    return Refused(
        f"The process server cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}.", remedy=remedy
    )
