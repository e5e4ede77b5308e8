"""A proxy before an object store that does what networks and stores do to requests, in an order that a seed decides.

Errors come before a request took effect (refused with 503, connection lost) and after (the store did it, the answer is
lost or says 503); bodies are cut short; answers are slow.
"""

from __future__ import annotations

import base64
import contextlib
import enum
import hashlib
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Fault(enum.Enum):
    """What happens to one request."""

    NONE = enum.auto()
    BUSY = enum.auto()
    LOST_BEFORE = enum.auto()
    LOST_AFTER = enum.auto()
    BUSY_AFTER = enum.auto()
    CUT = enum.auto()
    SLOW = enum.auto()


class FaultyProxy:
    """``share`` of the requests meet a fault; ``seen`` counts them by kind. ``instead``: answers (status, headers,
    body) that the next requests get in place of the store's. ``received``: bytes of bodies that were passed on.
    ``garbled``: how many of the next bodies change on the way; a checksum that comes with a body is looked at, as
    clouds do and their doubles do not."""

    def __init__(self, upstream: int, seed: int, share: float) -> None:
        self.share = share
        self.seen: Counter[Fault] = Counter()
        self.instead: list[tuple[int, list[tuple[str, str]], bytes]] = []
        self.received = self.garbled = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Quiet."""

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if proxy.instead:
                    self._answer(*proxy.instead.pop(0))
                    return
                if proxy.garbled and body:
                    proxy.garbled -= 1
                    body = bytes([body[0] ^ 1]) + body[1:]
                checksum = self.headers.get("Content-MD5")
                if checksum and base64.b64decode(checksum) != hashlib.md5(body, usedforsecurity=False).digest():
                    self._answer(400, [("x-ms-error-code", "Md5Mismatch")], b"")
                    return
                fault = proxy.draw()
                if fault is Fault.LOST_BEFORE:
                    self._lose()
                    return
                if fault is Fault.BUSY:
                    self._answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
                    return
                if fault is Fault.SLOW:
                    time.sleep(0.3)
                with proxy._lock:
                    proxy.received += len(body)
                connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=30)
                try:
                    connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        connection.putheader(name, value)
                    connection.endheaders(body)
                    answer = connection.getresponse()
                    data = answer.read()
                finally:
                    connection.close()
                if fault is Fault.LOST_AFTER:
                    self._lose()
                elif fault is Fault.BUSY_AFTER:
                    self._answer(503, [], b"<Error><Code>ServiceUnavailable</Code></Error>")
                else:
                    self._answer(answer.status, answer.getheaders(), data, cut=fault is Fault.CUT)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve  # noqa: N815 - the library's names

            def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False) -> None:
                self.send_response_only(status)
                length = str(len(data))
                for name, value in headers:
                    if name.lower() == "content-length" and self.command == "HEAD":
                        length = value
                    elif name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[: len(data) // 2] if cut else data)
                if cut:
                    self._lose()

            def _lose(self) -> None:
                self.wfile.flush()
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(2)

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Quiet: clients are killed."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    def draw(self) -> Fault:
        """The next request's fate."""
        with self._lock:
            hit = self._random.random() < self.share
            fault = self._random.choice([one for one in Fault if one is not Fault.NONE]) if hit else Fault.NONE
            self.seen[fault] += 1
            return fault

    @contextlib.contextmanager
    def running(self) -> Iterator[FaultyProxy]:
        """Serve in a thread."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
