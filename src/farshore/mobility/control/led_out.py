"""The way out of a recovered machine with an isolated network: connections that its host opens into it.

Used only if the firmware says that Farshore's recovery site created this machine, and if no proxy is configured. The
transport uses a proxy on the loopback (CONNECT). That proxy uses an open connection of the host; if there is none, as
on a network that is not isolated, it connects directly. TLS is end to end. See farshore.model.led_out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import urllib.request
from collections import deque
from pathlib import Path
from typing import Deque, Optional, Tuple

from farshore.model.led_out import LONGEST_LINE, OK, PORT, VENDOR, wish

log = logging.getLogger(__name__)

_DMI_VENDOR = Path("/sys/class/dmi/id/sys_vendor")
_MOST_WAITING = 16
_DIRECT_SECONDS = 4.0
_ANSWER_SECONDS = 10.0
_PIECE = 1 << 18
_MOST_HEADER = 16384


def recovered() -> bool:
    """Return whether one of Farshore's own recovery sites created this machine."""
    try:
        return _DMI_VENDOR.read_text(encoding="ascii", errors="replace").strip() == VENDOR
    except OSError:
        return False


def lead_out() -> None:
    """Let all connections of this process use the host's forwarded connections, if it offers any."""
    if not recovered() or urllib.request.getproxies().get("https"):
        return
    try:
        way = WayOut(PORT)
    except OSError as error:
        log.warning("No connection can be forwarded into this machine: %s", error)
        return
    os.environ["HTTPS_PROXY"] = f"http://127.0.0.1:{way.proxy_port}"
    way.start()
    log.info("This is a recovered machine: its servers are reached through connections of its host, or directly.")


class WayOut:
    """Listens at ``port`` for the host, and at ``proxy_port`` of the loopback for this process. ``straight``: if the
    host has no open connection, it connects directly. Raises OSError."""

    def __init__(self, port: int, *, straight: bool = True) -> None:
        self._straight = straight
        self._host = socket.create_server(("0.0.0.0", port), backlog=_MOST_WAITING)  # noqa: S104 - the host is outside
        self._proxy = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._host.getsockname()[1]
        self.proxy_port = self._proxy.getsockname()[1]
        self._waiting: Deque[socket.socket] = deque()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Serve connections in threads, until the process ends or ``close`` is called."""
        for name, target in (("led in", self._hear_host), ("led out", self._hear_process)):
            threading.Thread(target=target, name=name, daemon=True).start()

    def is_led(self) -> bool:
        """Whether a connection of the host is open and waits."""
        with self._lock:
            return any(not _spent(one) for one in self._waiting)

    def close(self) -> None:
        """Stop listening."""
        for one in (self._host, self._proxy):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        with self._lock:
            while self._waiting:
                self._waiting.popleft().close()

    def _hear_host(self) -> None:
        while True:
            try:
                peer, _ = self._host.accept()
            except OSError:
                return
            with self._lock:
                self._waiting.append(peer)
                while self._waiting and _spent(self._waiting[0]):
                    self._waiting.popleft().close()
                surplus = self._waiting.popleft() if len(self._waiting) > _MOST_WAITING else None
            if surplus is not None:
                surplus.close()

    def _hear_process(self) -> None:
        while True:
            try:
                peer, _ = self._proxy.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), name="led out", daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            asked = _asked(peer)
            there = None if asked is None else self._connect(*asked)
            if there is None:
                peer.sendall(b"HTTP/1.1 502 Unreachable\r\nContent-Length: 0\r\n\r\n")
                return
            with there:
                there.settimeout(None)
                peer.settimeout(None)
                peer.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
                back = threading.Thread(target=_carry, args=(there, peer), name="led out", daemon=True)
                back.start()
                _carry(peer, there)
                back.join()

    def _connect(self, host: str, port: int) -> Optional[socket.socket]:
        while True:
            with self._lock:
                led = self._waiting.pop() if self._waiting else None  # the newest is the most likely to be alive
            if led is None:
                break
            if not _spent(led):
                answer = _ask(led, host, port)
                if answer is not None:
                    return answer
            led.close()
        if not self._straight:
            return None
        try:
            return socket.create_connection((host, port), timeout=_DIRECT_SECONDS)
        except OSError:
            return None


def _ask(led: socket.socket, host: str, port: int) -> Optional[socket.socket]:
    try:
        led.settimeout(_ANSWER_SECONDS)
        led.sendall(wish(host, port))
        answer = b""
        while not answer.endswith(b"\n") and len(answer) < LONGEST_LINE:
            byte = led.recv(1)
            if not byte:
                return None
            answer += byte
    except OSError:
        return None
    return led if answer == OK else None


def _spent(led: socket.socket) -> bool:
    """Return whether the other side has closed the connection: it sends nothing before a request."""
    poller = select.poll()
    poller.register(led, select.POLLIN)
    return bool(poller.poll(0))


def _asked(peer: socket.socket) -> Optional[Tuple[str, int]]:
    peer.settimeout(_ANSWER_SECONDS)
    heard = b""
    while b"\r\n\r\n" not in heard and len(heard) < _MOST_HEADER:
        piece = peer.recv(4096)
        if not piece:
            return None
        heard += piece
    words = heard.split(b"\r\n", 1)[0].decode("ascii", "replace").split()
    if len(words) != 3 or words[0] != "CONNECT":
        return None
    host, _, port = words[1].rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() else None


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            piece = source.recv(_PIECE)
            if not piece:
                break
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
