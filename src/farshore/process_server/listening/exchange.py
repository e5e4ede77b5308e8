"""A request in the form for a handler, and the handler's answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Mapping, Sequence

from farshore.formats.batch import Buffer
from farshore.process_server.listening.peer import Peer


@dataclass(frozen=True)
class Request:
    """``path`` is without query. ``body`` reads the whole body on its first call, into memory that is reused after the
    answer: keep no view of it. It raises Malformed if the body is larger than the handler allows."""

    method: str
    path: str
    peer: Peer | None
    """None: the client showed no certificate."""
    length: int
    body: Callable[[int], memoryview] = field(repr=False)
    """Called with the largest number of bytes that the caller accepts."""
    arrived: float = 0.0
    """When its head arrived, in seconds of our monotonic clock."""
    sent: int = 0
    """The sender's monotonic clock when it sent this, ns (Farshore-Monotonic); 0: not given."""


@dataclass(frozen=True)
class Answer:
    """The buffers of ``body`` are sent in order."""

    status: int
    content_type: str
    body: Sequence[Buffer] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Answer]
"""Called in a worker thread. It may raise any FarshoreError, which becomes a problem answer."""
