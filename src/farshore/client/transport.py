"""Requests to one Farshore server: pooled connections, mutual TLS, retries with jitter, typed bodies and errors.

Every other module of this package is a thin list of calls over ``Transport``, which is thread-safe.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from types import TracebackType
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Type, TypeVar, Union, cast
from urllib.parse import quote, urlencode

import urllib3
from pydantic import BaseModel, TypeAdapter, ValidationError
from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.util import Retry, Timeout

from farshore.client.credentials import Credentials
from farshore.client.problems import error_from_answer, error_from_transport
from farshore.client.proxies import pool_manager, proxy_for
from farshore.client.roles import Role
from farshore.model.errors import Unauthenticated, Unsupported

Answer = TypeVar("Answer", bound=BaseModel)
Parameter = Union[str, int, float, bool, None]
Buffer = Union[bytes, bytearray, memoryview]

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
MOST_LINE_BYTES = 1 << 20
AUTHORITIES = "Farshore-Authorities"
"""Header of an answer: a new value says that the server trusts other authorities now. It is only a hint to fetch
them."""
SERVERS = "Farshore-Servers"
"""Header of an answer to a machine: URLs of the configuration servers that it may use, in this order."""
LEAVE = "leave"
"""The first word of SERVERS if the machine should switch to the first of them now, because this server has been
displaced."""
_SOCKET_OPTIONS = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]
"""A connection that the network has dropped is noticed within 30 s, even an idle one, and a firewall that drops idle
connections keeps this one. The kernel does this, so it costs this program no wake-up."""


class _Again(Retry):
    """Retries, except after a refusal in TLS: that will not change within seconds."""

    def increment(
        self,
        method: Optional[str] = None,
        url: Optional[str] = None,
        response: Any = None,
        error: Optional[Exception] = None,
        _pool: Any = None,
        _stacktrace: Optional[TracebackType] = None,
    ) -> _Again:
        """Count an attempt. Raises MaxRetryError if it was the last."""
        if isinstance(error, HTTPError) and isinstance(error_from_transport(error, ""), Unauthenticated):
            raise MaxRetryError(_pool, url or "", error) from error
        return super().increment(method, url, response, error, _pool, _stacktrace)


AGAIN = _Again(
    total=5,
    backoff_factor=0.2,
    backoff_jitter=0.3,
    backoff_max=5,
    status_forcelist=(502, 503, 504),
    allowed_methods=None,
    raise_on_status=False,
    redirect=False,
)
"""For calls that may safely be repeated."""
ONCE = Retry(total=0, redirect=False, raise_on_status=False)
"""For calls that may not be repeated, and for callers that have their own retry loop."""


class Transport:
    """``url`` is the server's base URL. Every method raises only classes of farshore.model.errors."""

    def __init__(
        self,
        url: str,
        context: ssl.SSLContext,
        *,
        connections: int = 8,
        read_seconds: float = READ_SECONDS,
        proxy: Optional[str] = None,
    ) -> None:
        """``proxy`` is the HTTP proxy to use, whatever the environment says."""
        self.url = url.rstrip("/")
        self._given_proxy = proxy
        self._role: Optional[Role] = None
        self._connections, self._read_seconds = connections, read_seconds
        self._context, self._proxy = context, proxy or proxy_for(self.url)
        self._pool = self._made(context)
        self.authorities = ""
        """The value of the header AUTHORITIES in the last answer that had one."""
        self.servers = ""
        """The same for SERVERS."""

    @classmethod
    def from_credentials(
        cls,
        credentials: Credentials,
        url: Optional[str] = None,
        role: Role = Role.CONFIGURATION_SERVER,
        proxy: Optional[str] = None,
    ) -> Transport:
        """Return a transport to ``url``, by default to the server of the credentials. It must have ``role``."""
        made = cls(url or credentials.url, credentials.context(role), proxy=proxy)
        made._role = role
        return made

    def move_to(self, url: str) -> None:
        """Send later requests to another server of the same authority; requests under way are not affected. Raises
        Malformed for an invalid proxy."""
        proxy, self.url = self._given_proxy or proxy_for(url), url.rstrip("/")
        if proxy != self._proxy:
            before, self._proxy = self._pool, proxy
            self._pool = self._made(self._context)
            before.clear()

    def renew(self, credentials: Credentials) -> None:
        """Present another certificate and trust only its authority from now on; requests under way are not affected.
        Only for a transport that was created from credentials. Raises Malformed."""
        assert self._role is not None
        before = self._pool
        self._context = credentials.context(self._role)
        # A new context, because trusted authorities can be added to a context, but not removed.
        self._pool = self._made(self._context)
        before.clear()  # A kept connection would keep the old certificate.

    def _made(self, context: ssl.SSLContext) -> urllib3.PoolManager:
        return pool_manager(
            self.url,
            context,
            self._given_proxy,
            num_pools=2,
            maxsize=self._connections,
            timeout=Timeout(connect=CONNECT_SECONDS, read=self._read_seconds),
            blocksize=1 << 17,
            socket_options=_SOCKET_OPTIONS,
        )

    def get(self, path: str, answer: Type[Answer], **parameters: Parameter) -> Answer:
        """GET one object. ``parameters`` that are None are left out of the query."""
        return self.call("GET", path + _query(parameters), None, answer)

    def get_list(self, path: str, item: Type[Answer], **parameters: Parameter) -> List[Answer]:
        """GET a JSON array of ``item``."""
        data = self.request("GET", path + _query(parameters), retries=AGAIN)
        return _parsed(TypeAdapter(List[item]), data)  # type: ignore[valid-type]

    def post(self, path: str, body: Optional[BaseModel], answer: Type[Answer], *, repeatable: bool = False) -> Answer:
        """POST a body and return the answer; ``repeatable`` says that a repetition does no harm."""
        return self.call("POST", path, body, answer, repeatable=repeatable)

    def post_nothing(self, path: str) -> None:
        """POST without a body, for no answer; a repetition must do no harm."""
        self.request("POST", path, retries=AGAIN)

    def put(self, path: str, body: BaseModel, answer: Type[Answer]) -> Answer:
        """PUT one object."""
        return self.call("PUT", path, body, answer)

    def delete(self, path: str) -> None:
        """DELETE one object."""
        self.request("DELETE", path, retries=AGAIN)

    def call(
        self,
        method: str,
        path: str,
        body: Optional[BaseModel],
        answer: Type[Answer],
        *,
        repeatable: Optional[bool] = None,
    ) -> Answer:
        """Call with any method; JSON both ways. Repeatable by default, except POST."""
        repeat = method != "POST" if repeatable is None else repeatable
        buffers: List[Buffer] = [] if body is None else [body.model_dump_json().encode()]
        data = self.request(method, path, buffers, content_type="application/json", retries=AGAIN if repeat else ONCE)
        return _parsed(TypeAdapter(answer), data)

    def request(
        self,
        method: str,
        path: str,
        buffers: Sequence[Buffer] = (),
        *,
        content_type: str = "application/octet-stream",
        retries: Retry = ONCE,
        headers: Optional[Mapping[str, str]] = None,
    ) -> bytes:
        """Send a request and return the raw answer. ``buffers`` are sent in order as the body, without being joined or
        copied."""
        url = self.url + path
        sent: Dict[str, str] = {"Accept": "application/json", **(headers or {})}
        if buffers or method in ("POST", "PUT", "PATCH"):
            sent["Content-Type"] = content_type
            sent["Content-Length"] = str(sum(len(buffer) for buffer in buffers))
        body = cast(List[bytes], list(buffers)) or None  # a list, so that a retry can read it again
        try:
            response = self._pool.request(method, url, body=body, headers=sent, retries=retries, redirect=False)
        except HTTPError as error:
            raise error_from_transport(error, self.url) from error
        self.authorities = response.headers.get(AUTHORITIES) or self.authorities
        self.servers = response.headers.get(SERVERS) or self.servers
        if response.status >= 300:
            raise error_from_answer(response.status, response.data, response.headers.get("Retry-After"))
        return response.data

    @contextlib.contextmanager
    def lines(self, path: str, **parameters: Parameter) -> Iterator[Iterator[bytes]]:
        """GET a stream that the server keeps open, and yield its lines as they come, without empty ones. Tried once.
        The server must send a line, at least an empty one, within this transport's read timeout."""
        url = self.url + path + _query(parameters)
        try:
            response = self._pool.request(
                "GET", url, headers={"Accept": "application/x-ndjson"}, retries=ONCE, redirect=False,
                preload_content=False,
            )  # fmt: skip
            try:
                if response.status >= 300:
                    raise error_from_answer(response.status, response.data, response.headers.get("Retry-After"))
                yield self._split(response)
            finally:
                response.close()  # not back to the pool, because more data may follow
                response.release_conn()
        except HTTPError as error:
            raise error_from_transport(error, self.url) from error

    def _split(self, response: BaseHTTPResponse) -> Iterator[bytes]:
        left = b""
        try:
            for chunk in response.stream(None):
                *whole, left = (left + chunk).split(b"\n")
                yield from filter(None, whole)
                if len(left) > MOST_LINE_BYTES:
                    raise Unsupported(
                        f"A line of the answer of {self.url} is too long.", remedy="Upgrade the older side."
                    )
        except HTTPError as error:
            raise error_from_transport(error, self.url) from error

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.clear()

    def __enter__(self) -> Transport:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


Parsed = TypeVar("Parsed")


def _parsed(adapter: TypeAdapter[Parsed], data: bytes) -> Parsed:
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "body"
        raise Unsupported(
            f"The server's answer is not valid here ({where}: {error.errors()[0]['msg']}).",
            remedy="Upgrade the older side.",
        ) from error


def parsed_lines(item: Type[Answer], lines: Iterator[bytes]) -> Iterator[Answer]:
    """Return each line as ``item``. Raises Unsupported."""
    adapter = TypeAdapter(item)
    return (_parsed(adapter, line) for line in lines)


def segment(name: str) -> str:
    """Return a name quoted as one element of a path: slashes and dots in it have no effect."""
    return quote(name, safe="").replace(".", "%2E") if set(name) == {"."} else quote(name, safe="")


def _query(parameters: Mapping[str, Parameter]) -> str:
    given = {name: _text(value) for name, value in parameters.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def _text(value: Parameter) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
