"""The handshake, bytes in and bytes out."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farshore.export.nbd import wire
from farshore.export.nbd.negotiation import Negotiation, Offer, Outcome, ProtocolViolation
from farshore.export.nbd.wire import Info, Option, Reply

OFFERS = {"0": Offer("0", 1 << 30, 0x1D, "system"), "1": Offer("1", 4096, 0x3)}


def begun(flags: int = 3) -> Negotiation:
    negotiation = Negotiation(OFFERS, default="0")
    assert negotiation.receive(struct.pack(">I", flags)) == b""
    return negotiation


def ask(negotiation: Negotiation, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
    """One option; its replies as (type, data)."""
    assert negotiation.needed == 16
    answer = negotiation.receive(struct.pack(">QII", wire.OPTION_MAGIC, option, len(data)))
    if data:
        assert answer == b""
        assert negotiation.needed == len(data)
        answer = negotiation.receive(data)
    replies = []
    while answer:
        magic, echoed, kind, length = wire.OPTION_REPLY.unpack_from(answer)
        assert (magic, echoed) == (wire.OPTION_REPLY_MAGIC, option)
        replies.append((kind, answer[20 : 20 + length]))
        answer = answer[20 + length :]
    return replies


def info(name: bytes, *wanted: int) -> bytes:
    return struct.pack(f">I{len(name)}sH{len(wanted)}H", len(name), name, len(wanted), *wanted)


def contexts(name: bytes, *queries: bytes) -> bytes:
    data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
    return data + b"".join(struct.pack(">I", len(query)) + query for query in queries)


def test_greeting() -> None:
    assert Negotiation.greeting() == b"NBDMAGICIHAVEOPT\x00\x03"


def test_go_tells_size_and_limits_and_enters() -> None:
    negotiation = begun()
    replies = ask(negotiation, Option.GO, info(b"", Info.NAME, Info.DESCRIPTION))
    assert replies == [
        (Reply.INFO, struct.pack(">HQH", 0, 1 << 30, 0x1D)),
        (Reply.INFO, b"\x00\x010"),
        (Reply.INFO, b"\x00\x02system"),
        (Reply.INFO, struct.pack(">HIII", 3, 1, 4096, 32 << 20)),
        (Reply.ACK, b""),
    ]
    assert negotiation.outcome is Outcome.TRANSMISSION
    assert negotiation.offer is OFFERS["0"]


def test_info_does_not_enter() -> None:
    negotiation = begun()
    assert ask(negotiation, Option.INFO, info(b"1"))[-1] == (Reply.ACK, b"")
    assert negotiation.outcome is None


def test_the_list_names_all() -> None:
    replies = ask(begun(), Option.LIST)
    assert [kind for kind, _ in replies] == [Reply.SERVER, Reply.SERVER, Reply.ACK]
    assert replies[0][1] == b"\x00\x00\x00\x010system"


def test_export_name_is_served_for_old_clients() -> None:
    for flags, padding in ((3, b""), (1, bytes(124))):
        negotiation = begun(flags)
        negotiation.receive(struct.pack(">QII", wire.OPTION_MAGIC, Option.EXPORT_NAME, 1))
        assert negotiation.receive(b"1") == struct.pack(">QH", 4096, 3) + padding
        assert negotiation.offer is OFFERS["1"]


def test_an_unknown_export() -> None:
    negotiation = begun()
    assert ask(negotiation, Option.GO, info(b"nope"))[0][0] == Reply.ERR_UNKNOWN
    assert negotiation.outcome is None
    negotiation.receive(struct.pack(">QII", wire.OPTION_MAGIC, Option.EXPORT_NAME, 4))
    assert negotiation.receive(b"nope") == b""
    assert negotiation.outcome is Outcome.CLOSED


def test_contexts_need_structured_replies_and_the_same_export() -> None:
    negotiation = begun()
    assert ask(negotiation, Option.SET_META_CONTEXT, contexts(b"0", b"base:allocation"))[0][0] == Reply.ERR_INVALID
    assert ask(negotiation, Option.STRUCTURED_REPLY) == [(Reply.ACK, b"")]
    chosen = ask(negotiation, Option.SET_META_CONTEXT, contexts(b"0", b"x:y", b"base:allocation"))
    assert chosen == [(Reply.META_CONTEXT, b"\x00\x00\x00\x01base:allocation"), (Reply.ACK, b"")]
    ask(negotiation, Option.GO, info(b"1"))
    assert negotiation.allocation_context == 0

    negotiation = begun()
    ask(negotiation, Option.STRUCTURED_REPLY)
    ask(negotiation, Option.SET_META_CONTEXT, contexts(b"", b"base:allocation"))
    ask(negotiation, Option.GO, info(b"0"))
    assert negotiation.allocation_context == 1


@pytest.mark.parametrize(
    ("queries", "count"), [((), 2), ((b"base:",), 2), ((b"qemu:",), 1), ((b"base:allocation",), 2)]
)
def test_contexts_are_listed(queries: tuple[bytes, ...], count: int) -> None:
    negotiation = begun()
    assert len(ask(negotiation, Option.LIST_META_CONTEXT, contexts(b"0", *queries))) == count


def test_abort_and_unknown_options() -> None:
    negotiation = begun()
    assert ask(negotiation, 77, b"data")[0][0] == Reply.ERR_UNSUP
    assert ask(negotiation, Option.ABORT) == [(Reply.ACK, b"")]
    assert negotiation.outcome is Outcome.CLOSED


@pytest.mark.parametrize(
    ("option", "data"),
    [
        (Option.LIST, b"x"),
        (Option.STRUCTURED_REPLY, b"x"),
        (Option.GO, b""),
        (Option.GO, b"\x00\x00\x00\x09short\x00\x00"),
        (Option.GO, info(b"0") + b"x"),
        (Option.GO, b"\x00\x00\x00\x01\xff\x00\x00"),
        (Option.LIST_META_CONTEXT, b"\x00\x00\x00\x010\xff\xff\xff\xff"),
        (Option.LIST_META_CONTEXT, contexts(b"0") + b"x"),
        (Option.LIST_META_CONTEXT, b"\x00\x00\x00\x010"),
    ],
)
def test_malformed_options_are_answered_and_the_handshake_goes_on(option: int, data: bytes) -> None:
    negotiation = begun()
    assert ask(negotiation, option, data)[0][0] == Reply.ERR_INVALID
    assert ask(negotiation, Option.GO, info(b"0"))[-1] == (Reply.ACK, b"")


def test_violations() -> None:
    with pytest.raises(ProtocolViolation):
        begun(flags=8)
    with pytest.raises(ProtocolViolation):
        begun().receive(bytes(16))
    with pytest.raises(ProtocolViolation):
        begun().receive(struct.pack(">QII", wire.OPTION_MAGIC, Option.GO, 1 << 20))


def test_a_client_that_never_decides_is_cut_off() -> None:
    negotiation = begun()
    for _ in range(1000):
        ask(negotiation, Option.LIST)
    with pytest.raises(ProtocolViolation):
        ask(negotiation, Option.LIST)


options = st.tuples(
    st.integers(0, 12), st.binary(max_size=60) | st.builds(contexts, st.binary(max_size=4), st.binary())
)


@given(st.lists(options, max_size=8), st.integers(0, 4))
def test_any_options_end_in_answers_an_end_or_a_violation(asked: list[tuple[int, bytes]], flags: int) -> None:
    negotiation = Negotiation(OFFERS, default="0")
    try:
        negotiation.receive(struct.pack(">I", flags))
        for option, data in asked:
            if negotiation.outcome is not None:
                break
            negotiation.receive(struct.pack(">QII", wire.OPTION_MAGIC, option, len(data)))
            if data:
                negotiation.receive(data)
    except ProtocolViolation:
        return
    assert (negotiation.outcome is Outcome.TRANSMISSION) == (negotiation.offer is not None)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    negotiation = Negotiation(OFFERS, default="0")
    while negotiation.outcome is None and len(data) >= negotiation.needed:
        piece, data = data[: negotiation.needed], data[negotiation.needed :]
        try:
            negotiation.receive(piece)
        except ProtocolViolation:
            return


def tls_is_due(peer: socket.socket) -> None:
    """Hear the greeting at ``peer``, be told to begin TLS at each option, and begin it."""

    def hear(count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = peer.recv(count - len(data))
            assert piece
            data += piece
        return data

    assert hear(wire.GREETING.size) == Negotiation.greeting()
    peer.sendall(struct.pack(">I", 3))
    for option, expected in ((Option.LIST, Reply.ERR_TLS_REQD), (Option.STARTTLS, Reply.ACK)):
        peer.sendall(struct.pack(">QII", wire.OPTION_MAGIC, option, 0))
        _, echoed, kind, length = wire.OPTION_REPLY.unpack(hear(wire.OPTION_REPLY.size))
        assert (echoed, kind) == (option, expected)
        hear(length)


def test_before_tls_a_client_gets_to_nothing() -> None:
    for option in (Option.LIST, Option.STRUCTURED_REPLY, Option.INFO, Option.GO, Option.SET_META_CONTEXT):
        negotiation = Negotiation(OFFERS, default="0", tls=True)
        negotiation.receive(struct.pack(">I", 3))
        data = info(b"0") if option in (Option.INFO, Option.GO) else contexts(b"0") if option > 8 else b""
        assert [kind for kind, _ in ask(negotiation, option, data)] == [Reply.ERR_TLS_REQD]
        assert (negotiation.outcome, negotiation.structured) == (None, False)
    # The old option has no answer that says no.
    assert negotiation.receive(struct.pack(">QII", wire.OPTION_MAGIC, Option.EXPORT_NAME, 1)) == b""
    assert (negotiation.receive(b"0"), negotiation.outcome, negotiation.offer) == (b"", Outcome.CLOSED, None)


def test_tls_begins_once_and_only_where_it_is_due() -> None:
    negotiation = Negotiation(OFFERS, default="0", tls=True)
    negotiation.receive(struct.pack(">I", 3))
    assert ask(negotiation, Option.STARTTLS, b"x")[0][0] == Reply.ERR_INVALID
    assert not negotiation.starting_tls
    assert ask(negotiation, Option.STARTTLS) == [(Reply.ACK, b"")]
    assert negotiation.starting_tls
    negotiation.secured()
    assert ask(negotiation, Option.STARTTLS) == [(Reply.ERR_UNSUP, b"")]
    assert len(ask(negotiation, Option.LIST)) == 3
    assert ask(begun(), Option.STARTTLS) == [(Reply.ERR_UNSUP, b"")]
