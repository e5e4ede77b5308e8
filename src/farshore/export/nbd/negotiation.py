"""The handshake as a pure state machine: bytes in, bytes out; the connection reads exactly ``needed`` bytes.

Flow: ``greeting()`` is sent first; then ``receive`` gets as many bytes as ``needed`` says and returns what to send,
until ``outcome`` is set. Any input of a client ends in an answer, in ``Outcome.CLOSED``, or in ``ProtocolViolation``:
nothing else is ever raised.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from farshore.export.nbd import wire
from farshore.export.nbd.wire import HandshakeFlag, Info, Option, Reply

_KNOWN_FLAGS = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
_MAXIMUM_OPTIONS = 1000
"""More than any client needs; a client that exceeds it is disconnected."""
_CONTEXT_ID = 1


class ProtocolViolation(Exception):
    """The peer violates the protocol: the connection must be closed."""


@dataclass(frozen=True)
class Offer:
    """One export as it is announced. ``size`` in bytes; block sizes as the protocol defines them."""

    name: str
    size: int
    flags: int
    description: str = ""
    minimum_block: int = 1
    preferred_block: int = 4096


class Outcome(enum.Enum):
    """How the handshake ended."""

    TRANSMISSION = "transmission"
    CLOSED = "closed"


class Negotiation:
    """One client's handshake. ``offers`` by name; the empty name means ``default``.

    ``tls``: the client can access nothing, not even names, before it has begun TLS (``starting_tls``)."""

    def __init__(self, offers: Mapping[str, Offer], default: str = "", *, tls: bool = False) -> None:
        self._tls_due = tls
        self.starting_tls = False
        """TLS begins now, after the answer was sent; call ``secured`` and then pass in the decrypted bytes."""
        self._offers = offers
        self._default = default
        self._options = 0
        self._option = 0
        self._zeroes = True
        self._step = self._client_flags
        self.needed = wire.CLIENT_FLAGS.size
        self.outcome: Outcome | None = None
        self.offer: Offer | None = None
        self.structured = False
        self._allocation_for: str | None = None

    @property
    def allocation_context(self) -> int:
        """The id of base:allocation if the client chose it for its export, otherwise 0."""
        return _CONTEXT_ID if self.offer is not None and self._allocation_for == self.offer.name else 0

    @staticmethod
    def greeting() -> bytes:
        """Return the server's first message."""
        return wire.GREETING.pack(wire.GREETING_MAGIC, wire.OPTION_MAGIC, _KNOWN_FLAGS)

    def receive(self, data: bytes) -> bytes:
        """Take exactly ``needed`` bytes; return what is to be sent. Raises ProtocolViolation."""
        return self._step(data)

    def secured(self) -> None:
        """Record that the client has begun TLS, through which everything comes from now on."""
        self.starting_tls = self._tls_due = False

    def _client_flags(self, data: bytes) -> bytes:
        (flags,) = wire.CLIENT_FLAGS.unpack(data)
        if flags & ~int(_KNOWN_FLAGS):
            raise ProtocolViolation(f"unknown client flags {flags:#x}")
        self._zeroes = not flags & HandshakeFlag.NO_ZEROES
        return self._await_option(b"")

    def _await_option(self, answer: bytes) -> bytes:
        self._step = self._option_header
        self.needed = wire.OPTION.size
        return answer

    def _option_header(self, data: bytes) -> bytes:
        magic, self._option, length = wire.OPTION.unpack(data)
        self._options += 1
        if magic != wire.OPTION_MAGIC:
            raise ProtocolViolation("wrong option magic")
        if length > wire.MAXIMUM_OPTION or self._options > _MAXIMUM_OPTIONS:
            raise ProtocolViolation("option too large, or too many of them")
        self._step = self._option_data
        self.needed = length
        return self._option_data(b"") if length == 0 else b""

    def _option_data(self, data: bytes) -> bytes:
        answer = self._answer(data)
        return answer if self.outcome is not None else self._await_option(answer)

    def _answer(self, data: bytes) -> bytes:
        try:
            option = Option(self._option)
        except ValueError:
            return self._reply(Reply.ERR_UNSUP)
        if option is Option.EXPORT_NAME:
            return self._export_name(data)
        if option is Option.ABORT:
            self.outcome = Outcome.CLOSED
            return self._reply(Reply.ACK)
        if option is Option.STARTTLS:
            return self._start_tls(data)
        if self._tls_due:
            return self._reply(Reply.ERR_TLS_REQD, b"this is served over TLS only")
        try:
            if option in (Option.LIST, Option.STRUCTURED_REPLY):
                if data:
                    raise _Invalid("this option has no data")
                return self._list() if option is Option.LIST else self._structured_reply()
            if option in (Option.INFO, Option.GO):
                return self._info(data, go=option is Option.GO)
            return self._meta_context(data, choose=option is Option.SET_META_CONTEXT)
        except _Invalid as error:
            return self._reply(Reply.ERR_INVALID, str(error).encode())

    def _start_tls(self, data: bytes) -> bytes:
        if not self._tls_due:
            return self._reply(Reply.ERR_UNSUP)
        if data:
            return self._reply(Reply.ERR_INVALID, b"this option has no data")
        self.starting_tls = True
        return self._reply(Reply.ACK)

    def _export_name(self, data: bytes) -> bytes:
        offer = None if self._tls_due else self._find(data.decode("utf-8", "replace"))
        if offer is None:
            # The protocol allows refusing this old option only by closing.
            self.outcome = Outcome.CLOSED
            return b""
        self._enter(offer)
        return struct.pack(">QH", offer.size, offer.flags) + (bytes(124) if self._zeroes else b"")

    def _list(self) -> bytes:
        answers = []
        for name, offer in self._offers.items():
            encoded = name.encode()
            item = struct.pack(">I", len(encoded)) + encoded + offer.description.encode()
            answers.append(self._reply(Reply.SERVER, item))
        return b"".join(answers) + self._reply(Reply.ACK)

    def _structured_reply(self) -> bytes:
        self.structured = True
        return self._reply(Reply.ACK)

    def _info(self, data: bytes, *, go: bool) -> bytes:
        name, rest = _take_name(data)
        if len(rest) < 2:
            raise _Invalid("information requests are missing")
        (count,) = struct.unpack_from(">H", rest)
        if len(rest) != 2 + 2 * count:
            raise _Invalid("the information requests do not fit their count")
        wanted = set(struct.unpack_from(f">{count}H", rest, 2))
        offer = self._find(name)
        if offer is None:
            return self._reply(Reply.ERR_UNKNOWN, f"no export is named {name!r}".encode())
        answer = self._reply(Reply.INFO, struct.pack(">HQH", Info.EXPORT, offer.size, offer.flags))
        if Info.NAME in wanted:
            answer += self._reply(Reply.INFO, struct.pack(">H", Info.NAME) + offer.name.encode())
        if Info.DESCRIPTION in wanted and offer.description:
            answer += self._reply(Reply.INFO, struct.pack(">H", Info.DESCRIPTION) + offer.description.encode())
        sizes = (Info.BLOCK_SIZE, offer.minimum_block, offer.preferred_block, wire.MAXIMUM_PAYLOAD)
        answer += self._reply(Reply.INFO, struct.pack(">HIII", *sizes))
        if go:
            self._enter(offer)
        return answer + self._reply(Reply.ACK)

    def _meta_context(self, data: bytes, *, choose: bool) -> bytes:
        name, rest = _take_name(data)
        queries = _take_queries(rest)
        if choose:
            self._allocation_for = None
            if not self.structured:
                raise _Invalid("structured replies must be chosen before contexts")
        offer = self._find(name)
        if offer is None:
            return self._reply(Reply.ERR_UNKNOWN, f"no export is named {name!r}".encode())
        known = wire.BASE_ALLOCATION in queries
        if not choose:
            known = known or not queries or "base:" in queries
        if not known:
            return self._reply(Reply.ACK)
        if choose:
            self._allocation_for = offer.name
        context = struct.pack(">I", _CONTEXT_ID if choose else 0) + wire.BASE_ALLOCATION.encode()
        return self._reply(Reply.META_CONTEXT, context) + self._reply(Reply.ACK)

    def _find(self, name: str) -> Offer | None:
        return self._offers.get(name or self._default)

    def _enter(self, offer: Offer) -> None:
        self.offer = offer
        self.outcome = Outcome.TRANSMISSION

    def _reply(self, kind: Reply, data: bytes = b"") -> bytes:
        return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, self._option, kind, len(data)) + data


class _Invalid(Exception):
    """An option with invalid data: it is answered, and the connection continues."""


def _take_name(data: bytes) -> tuple[str, bytes]:
    if len(data) < 4:
        raise _Invalid("the name is missing")
    (length,) = struct.unpack_from(">I", data)
    if length > wire.MAXIMUM_NAME or length > len(data) - 4:
        raise _Invalid("the name is too long")
    try:
        return data[4 : 4 + length].decode(), data[4 + length :]
    except UnicodeDecodeError as error:
        raise _Invalid("the name is not UTF-8") from error


def _take_queries(data: bytes) -> list[str]:
    if len(data) < 4:
        raise _Invalid("the count of queries is missing")
    (count,) = struct.unpack_from(">I", data)
    rest = data[4:]
    queries = []
    # Each query has at least four bytes, so a false count ends at the end of the data.
    for _ in range(count):
        query, rest = _take_name(rest)
        queries.append(query)
    if rest:
        raise _Invalid("there is more data than the announced queries")
    return queries
