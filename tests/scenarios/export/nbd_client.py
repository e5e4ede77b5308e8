"""The least NBD client that tests need: it sends what it is told, right or wrong."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import NamedTuple

from farshore.export.nbd import wire


class Piece(NamedTuple):
    """One reply or chunk: ``kind`` is a chunk type, or -1 for a simple reply; ``body`` without the header."""

    kind: int
    cookie: int
    error: int
    body: bytes
    last: bool


class NbdClient:
    """Connects, enters export ``name`` and leaves the rest to the caller."""

    def __init__(self, path: Path, name: str = "", *, structured: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(120)
        self.socket.connect(str(path))
        self.structured = structured
        self.take(18)
        self.socket.sendall(struct.pack(">I", 3))
        encoded = name.encode()
        if structured:
            self.option(8, b"")
            query = b"base:allocation"
            self.option(10, struct.pack(f">I{len(encoded)}sII", len(encoded), encoded, 1, len(query)) + query)
        self.option(7, struct.pack(f">I{len(encoded)}sH", len(encoded), encoded, 0))

    def option(self, number: int, data: bytes) -> int:
        """Send one option; the type of its last reply."""
        self.socket.sendall(struct.pack(">QII", wire.OPTION_MAGIC, number, len(data)) + data)
        while True:
            _, _, kind, length = wire.OPTION_REPLY.unpack(self.take(20))
            self.take(length)
            if kind == 1 or kind >> 31:
                return int(kind)

    def take(self, count: int) -> bytes:
        """Exactly ``count`` bytes; EOFError at the end of the connection."""
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def send(
        self, command: int, offset: int = 0, length: int = 0, flags: int = 0, cookie: int = 7, data: bytes = b""
    ) -> None:
        """One request, not waited for."""
        request = wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, command, cookie, offset, length)
        self.socket.sendall(request + data)

    def receive(self, read_length: int = 0) -> Piece:
        """The next reply or chunk; a simple reply to a read brings ``read_length`` bytes."""
        (magic,) = struct.unpack(">I", self.take(4))
        if magic == wire.SIMPLE_REPLY_MAGIC:
            error, cookie = struct.unpack(">IQ", self.take(12))
            return Piece(-1, cookie, error, b"" if error else self.take(read_length), True)
        assert magic == wire.CHUNK_MAGIC
        flags, kind, cookie, length = struct.unpack(">HHQI", self.take(16))
        body = self.take(length)
        error = struct.unpack_from(">I", body)[0] if kind >> 15 else 0
        return Piece(kind, cookie, error, body, bool(flags & 1))

    def call(self, command: int, offset: int = 0, length: int = 0, flags: int = 0, data: bytes = b"") -> list[Piece]:
        """One request and all of its reply."""
        self.send(command, offset, length, flags, data=data)
        pieces = [self.receive(length if command == 0 else 0)]
        while not pieces[-1].last:
            pieces.append(self.receive())
        return pieces

    def read(self, offset: int, length: int) -> bytes:
        """The bytes of a read, however they came."""
        content = bytearray(length)
        for piece in self.call(0, offset, length):
            assert piece.error == 0
            if piece.kind == -1:
                return piece.body
            (at,) = struct.unpack_from(">Q", piece.body)
            if piece.kind == wire.Chunk.OFFSET_DATA:
                content[at - offset : at - offset + len(piece.body) - 8] = piece.body[8:]
        return bytes(content)

    def close(self) -> None:
        """Hang up."""
        self.socket.close()
