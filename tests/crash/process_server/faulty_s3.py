"""An S3 store in memory that can be told to fail in the ways that real ones do.

As much of the protocol as the vault uses: PUT with ``If-None-Match: *``, GET with ranges, HEAD, DELETE, ListObjectsV2.
GCS speaks the same in its XML requests, but for the condition of a PUT, which is ``x-goog-if-generation-match: 0``.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import hashlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "farshore"


class Fault(enum.Enum):
    """What every request meets."""

    NONE = "none"
    SLOW_DOWN = "503 SlowDown"
    THROTTLED = "429 TooManyRequests"
    INTERNAL = "500 InternalError"
    WRONG_CREDENTIALS = "403 InvalidAccessKeyId"
    FULL = "507 StorageFull"
    SILENT = "it takes the request and never answers"
    RESET = "it breaks the connection"
    LOST_ANSWER = "it does what it is asked, and the answer is lost"
    SLOW = "it answers after more than half a second"


class Stored(NamedTuple):
    """``time``: of the put, seconds since 1970 UTC. ``tag``: made once, for a listing of a large vault asks for all."""

    data: bytes
    time: float
    tag: str


class FaultyStore:
    """Serves while it is entered. ``puts``: the times (monotonic) at which an object was asked to be put."""

    def __init__(self) -> None:
        self.fault = Fault.NONE
        self.refusal: tuple[int, str] | None = None
        """A status and an S3 error code with which every request is refused."""
        self.ignores_conditions = False
        """Replaces what is to be created only, as older gateways do."""
        self.objects: dict[str, Stored] = {}
        self.puts: list[float] = []
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.store = self
        self._servers = [self._server]

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}"

    @property
    def environment(self) -> dict[str, str]:
        """What opens it."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self._server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_TIMEOUT": "1 second",
        }

    def __enter__(self) -> FaultyStore:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def serve_here_too(self) -> None:
        """Serve at the same address of the network namespace that the caller is in."""
        made = _Server(self._server.server_address, _Handler)
        made.store = self
        self._servers.append(made)
        threading.Thread(target=made.serve_forever, daemon=True).start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    store: FaultyStore

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what some of the faults are for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self._met_fault(b""):
            return
        name, query = self._asked()
        if not name:
            self._list(query)
            return
        found = self.server.store.objects.get(name)
        if found is None:
            self._refuse(404, "NoSuchKey")
            return
        data = found.data
        status, first, last = 200, 0, len(data) - 1
        given = self.headers.get("Range", "").removeprefix("bytes=")
        if given:
            low, _, high = given.partition("-")
            first, last = (int(low), int(high or last)) if low else (len(data) - int(high), last)
            status, last = 206, min(last, len(data) - 1)
        part = data[first : last + 1]
        extra = {"Content-Range": f"bytes {first}-{last}/{len(data)}"} if status == 206 else {}
        self._answer(status, part, {**_about(found), **extra})

    def do_HEAD(self) -> None:
        if self._met_fault(b""):
            return
        found = self.server.store.objects.get(self._asked()[0])
        if found is None:
            self._answer(404, b"")
        else:
            self._answer(200, b"", {**_about(found), "Content-Length": str(len(found.data))})

    def do_PUT(self) -> None:
        store = self.server.store
        data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        with store.lock:
            store.puts.append(time.monotonic())
        if self._met_fault(data):
            return
        name, _ = self._asked()
        made = Stored(data, time.time(), hashlib.md5(data, usedforsecurity=False).hexdigest())
        with store.lock:
            first = self.headers.get("If-None-Match") == "*" or self.headers.get("x-goog-if-generation-match") == "0"
            create = first and not store.ignores_conditions
            if create and name in store.objects:
                taken = True
            else:
                taken = False
                store.objects[name] = made
        if taken:
            self._refuse(412, "PreconditionFailed")
        else:
            self._answer(200, b"", _about(made))

    def do_DELETE(self) -> None:
        if not self._met_fault(b""):
            self.server.store.objects.pop(self._asked()[0], None)
            self._answer(204, b"")

    def _asked(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path).removeprefix(f"/{BUCKET}").lstrip("/"), parse_qs(parts.query)

    def _met_fault(self, _body: bytes) -> bool:
        fault = self.server.store.fault
        if self.server.store.refusal is not None:
            self._refuse(*self.server.store.refusal)
            return True
        if fault in (Fault.NONE, Fault.LOST_ANSWER):
            return False
        if fault is Fault.SLOW:
            time.sleep(0.6)
            return False
        if fault is Fault.SILENT:
            time.sleep(3)
            self.close_connection = True
            return True
        if fault is Fault.RESET:
            self._break()
            return True
        status, code = fault.value.split()
        self._refuse(int(status), code)
        return True

    def _break(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} of the double</Message></Error>"
        self._answer(status, text.encode(), {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        if self.server.store.fault is Fault.LOST_ANSWER:
            self._break()
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _list(self, query: dict[str, list[str]]) -> None:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        after = query.get("start-after", query.get("continuation-token", [""]))[0]
        with self.server.store.lock:
            objects = sorted(self.server.store.objects.items())
        rows, folders = [], set()
        for name, stored in objects:
            if not name.startswith(prefix) or name <= after:
                continue
            inner, slash, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if slash:
                folders.add(f"{prefix}{inner}/")
                continue
            stamp = datetime.datetime.fromtimestamp(stored.time, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            rows.append(
                f"<Contents><Key>{escape(name)}</Key><LastModified>{stamp}</LastModified>"
                f"<ETag>&quot;{stored.tag}&quot;</ETag><Size>{len(stored.data)}</Size></Contents>"
            )
        rows += [f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in sorted(folders)]
        text = f"<?xml version='1.0'?><ListBucketResult><IsTruncated>false</IsTruncated>{''.join(rows)}"
        self._answer(200, f"{text}</ListBucketResult>".encode(), {"Content-Type": "application/xml"})


def _about(stored: Stored) -> dict[str, str]:
    stamp = datetime.datetime.fromtimestamp(stored.time, datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    return {"ETag": f'"{stored.tag}"', "Last-Modified": stamp}
