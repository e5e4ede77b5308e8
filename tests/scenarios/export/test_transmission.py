"""Requests over a Unix socket: right ones, wrong ones, slow ones, many at once."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.scenarios.export.nbd_client import NbdClient
from tests.unit.export.memory_source import MemorySource

from farshore.export.device import ReadOnlyDevice
from farshore.export.nbd import wire
from farshore.export.nbd.server import NbdServer
from farshore.export.nbd.wire import Chunk, Command, CommandFlag, NbdError
from farshore.export.overlay import OverlayDevice
from farshore.model.errors import Damaged, NoSpace

SIZE = 4 << 20
CONTENT = random.Random(4).randbytes(1 << 20) + bytes(1 << 20) + random.Random(5).randbytes(1 << 20) + bytes(1 << 20)


class Served:
    """A server over a memory source: export ``rw`` with an overlay, ``ro`` without."""

    def __init__(self, folder: Path) -> None:
        self.source = MemorySource(CONTENT)
        self.overlay = OverlayDevice(self.source, folder / "overlay", "test")
        self.server = NbdServer({"rw": self.overlay, "ro": ReadOnlyDevice(MemorySource(CONTENT))}, default="rw")
        self.path = folder / "nbd.sock"
        self.server.listen_unix(self.path)
        self.server.start()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    assert made.server.close()
    made.overlay.close()


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("length", [1, 512, 4096, 65535, 65536, 300_000, 3 << 20])
def test_reads(served: Served, structured: bool, length: int) -> None:
    client = NbdClient(served.path, structured=structured)
    for offset in (0, 511, SIZE - length):
        assert client.read(offset, length) == CONTENT[offset : offset + length]
    client.close()


def test_holes_travel_without_their_zeroes(served: Served) -> None:
    client = NbdClient(served.path)
    kinds = [piece.kind for piece in client.call(Command.READ, (1 << 20) - 4096, (1 << 20) + 8192)]
    assert kinds == [Chunk.OFFSET_DATA, Chunk.OFFSET_HOLE, Chunk.OFFSET_DATA]
    assert len(client.call(Command.READ, 0, SIZE, CommandFlag.DF)) == 1
    client.close()


@pytest.mark.parametrize("structured", [True, False])
def test_a_read_of_nothing_brings_nothing(served: Served, structured: bool) -> None:
    client = NbdClient(served.path, structured=structured)
    (piece,) = client.call(Command.READ, 4096, 0)
    assert (piece.kind, piece.error, piece.body) == (Chunk.NONE if structured else -1, 0, b"")
    client.close()


def test_zeroes_without_a_hole_have_their_space(served: Served) -> None:
    client = NbdClient(served.path)
    offset, length = (1 << 20) - 512, (1 << 20) + 4096
    assert client.call(Command.WRITE_ZEROES, offset, length, CommandFlag.NO_HOLE)[0].error == 0
    (status,) = client.call(Command.BLOCK_STATUS, offset, length)
    _, described, state = struct.unpack_from(">III", status.body)
    assert (described, state) == (length, 0)
    assert client.read(0, SIZE) == CONTENT[:offset] + bytes(length) + CONTENT[offset + length :]
    client.close()


def test_writes_zeroes_and_trims_are_seen_on_every_connection(served: Served) -> None:
    one, other = NbdClient(served.path), NbdClient(served.path, structured=False)
    expected = bytearray(CONTENT)
    for offset, data in ((0, b"a" * 4096), (10_000, b"b" * 300), (1 << 20, b"c" * 400_000), (SIZE - 1, b"d")):
        assert one.call(Command.WRITE, offset, len(data), data=data)[0].error == 0
        expected[offset : offset + len(data)] = data
        assert other.read(offset, len(data)) == data
    for command, offset, length in ((Command.TRIM, 2_100_000, 50_000), (Command.WRITE_ZEROES, 5, 9)):
        assert one.call(command, offset, length, CommandFlag.FUA)[0].error == 0
        expected[offset : offset + length] = bytes(length)
    assert other.call(Command.FLUSH)[0].error == 0
    assert other.read(0, SIZE) == expected
    one.close()
    other.close()


def test_block_status(served: Served) -> None:
    client = NbdClient(served.path)
    served.overlay.zero(0, 8192)

    def status(flags: int = 0) -> list[tuple[int, int]]:
        (piece,) = client.call(Command.BLOCK_STATUS, 0, SIZE, flags)
        numbers = struct.unpack(f">{len(piece.body) // 4}I", piece.body)
        assert numbers[0] == 1
        return list(zip(numbers[1::2], numbers[2::2], strict=True))

    mib = 1 << 20
    assert status() == [(8192, 3), (mib - 8192, 0), (mib, 3), (mib, 0), (mib, 3)]
    assert status(CommandFlag.REQ_ONE) == [(8192, 3)]
    client.close()


@pytest.mark.parametrize(
    ("command", "offset", "length", "flags", "error"),
    [
        (Command.READ, SIZE - 1, 2, 0, NbdError.EINVAL),
        (Command.READ, 1 << 63, 512, 0, NbdError.EINVAL),
        (Command.READ, 0, 4096, CommandFlag.FUA, NbdError.EINVAL),
        (Command.TRIM, SIZE, 1, 0, NbdError.EINVAL),
        (Command.WRITE_ZEROES, SIZE - 512, 1024, 0, NbdError.ENOSPC),
        (Command.WRITE_ZEROES, 0, 512, CommandFlag.DF, NbdError.EINVAL),
        (Command.FLUSH, 0, 512, 0, NbdError.EINVAL),
        (Command.BLOCK_STATUS, 0, 0, 0, NbdError.EINVAL),
        (5, 0, 512, 0, NbdError.EINVAL),
        (99, 0, 0, 0, NbdError.EINVAL),
    ],
)
def test_requests_that_cannot_be(
    served: Served, command: int, offset: int, length: int, flags: int, error: int
) -> None:
    for structured in (True, False):
        client = NbdClient(served.path, structured=structured)
        assert client.call(command, offset, length, flags)[-1].error == error
        assert client.read(0, 512) == CONTENT[:512]
        client.close()


def test_a_write_beyond_the_end_leaves_the_stream_in_step(served: Served) -> None:
    client = NbdClient(served.path)
    assert client.call(Command.WRITE, SIZE - 512, 1024, data=bytes(1024))[0].error == NbdError.ENOSPC
    assert client.call(Command.WRITE, SIZE - 512, 600_000, data=bytes(600_000))[0].error == NbdError.ENOSPC
    assert client.read(SIZE - 512, 512) == CONTENT[-512:]
    client.close()


def test_nobody_writes_to_a_read_only_export(served: Served) -> None:
    client = NbdClient(served.path, "ro")
    for command, data in ((Command.WRITE, bytes(512)), (Command.TRIM, b""), (Command.WRITE_ZEROES, b"")):
        assert client.call(command, 0, 512, data=data)[0].error == NbdError.EPERM
    assert client.call(Command.FLUSH)[0].error == 0
    client.close()


def test_what_a_source_raises_reaches_the_client_as_an_error(served: Served) -> None:
    client = NbdClient(served.path)
    for error, number in (
        (Damaged("a pack is damaged", remedy=""), NbdError.EIO),
        (OSError(5, "Input/output error"), NbdError.EIO),
        (NoSpace("the disk is full", remedy=""), NbdError.ENOSPC),
    ):
        for length in (512, 200_000):
            served.source.errors.append(error)
            assert client.call(Command.READ, 0, length)[-1].error == number
    assert client.read(0, 512) == CONTENT[:512]
    client.close()


def test_a_slow_read_holds_up_nobody(served: Served) -> None:
    """The second answer comes while the first request still waits for its source."""
    gate, begun = threading.Event(), threading.Event()
    plain = served.source.read_into

    def slow(offset: int, buffer: memoryview) -> None:
        if offset == 0:
            begun.set()
            assert gate.wait(60)
        plain(offset, buffer)

    served.source.read_into = slow  # type: ignore[method-assign]
    client = NbdClient(served.path)
    client.send(Command.READ, 0, 4096, cookie=1)
    assert begun.wait(60)
    client.send(Command.READ, 8192, 4096, cookie=2)
    client.send(Command.WRITE, 16384, 4096, cookie=3, data=bytes(4096))
    assert {client.receive().cookie, client.receive().cookie} == {2, 3}
    gate.set()
    assert client.receive().cookie == 1
    client.close()


def test_many_requests_in_flight(served: Served) -> None:
    client = NbdClient(served.path)
    order = random.Random(1)
    wanted = {}
    for cookie in range(400):
        offset, length = order.randrange(0, SIZE - 40_000), order.randrange(1, 40_000)
        wanted[cookie] = (offset, length)
        client.send(Command.READ, offset, length, cookie=cookie)
    for _ in range(400):
        piece = client.receive()
        offset, length = wanted.pop(piece.cookie)
        assert piece.body[8:] == CONTENT[offset : offset + length]
    client.close()


def test_clients_that_break_off_or_talk_nonsense_harm_nobody(served: Served) -> None:
    steady = NbdClient(served.path)
    for nonsense in (b"GET / HTTP/1.0\r\n\r\n" * 4, bytes(28), wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, 1, 1, 0, 4096)):
        client = NbdClient(served.path)
        client.socket.sendall(nonsense)
        client.close()
        assert steady.read(0, 512) == CONTENT[:512]
    too_large = NbdClient(served.path)
    too_large.send(Command.WRITE, 0, 33 << 20)
    with pytest.raises((EOFError, ConnectionError)):
        too_large.receive()
    too_large.close()
    steady.send(Command.DISC)
    with pytest.raises(EOFError):
        steady.receive()
    steady.close()


requests = st.tuples(
    st.integers(0, 9), st.integers(0, 63), st.integers(0, SIZE + 5000) | st.integers(0, 2**64 - 1), st.integers(0, 9000)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(requests, max_size=12), tail=st.binary(max_size=40))
def test_any_requests_leave_the_server_alive(
    served: Served, asked: list[tuple[int, int, int, int]], tail: bytes
) -> None:
    client = NbdClient(served.path, "ro")
    try:
        for command, flags, offset, length in asked:
            data = bytes(length) if command == Command.WRITE else b""
            client.send(command, offset, length, flags, data=data)
        client.socket.sendall(tail)
    except (BrokenPipeError, ConnectionResetError):
        pass  # a farewell among the requests
    client.close()
    other = NbdClient(served.path, "ro")
    assert other.read(0, 4096) == CONTENT[:4096]
    other.close()


def test_a_server_that_ends_finishes_what_was_begun(tmp_path: Path) -> None:
    served = Served(tmp_path)
    client = NbdClient(served.path)
    client.call(Command.WRITE, 0, 4096, data=b"x" * 4096)
    assert served.server.close()
    with pytest.raises((EOFError, ConnectionError)):
        client.call(Command.READ, 0, 512)
    client.close()
    served.overlay.close()
    again = OverlayDevice(MemorySource(CONTENT), tmp_path / "overlay", "test")
    found = bytearray(4096)
    again.read_into(0, memoryview(found))
    assert found == b"x" * 4096
    again.close()
