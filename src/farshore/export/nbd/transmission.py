"""One client's connection after the handshake: requests in, device operations, replies out.

One thread *leads*: it reads requests and answers at once those that need no waiting; answers to requests that came
together leave together. Before an operation that may wait (a read from the store, a flush) it passes the lead on, so
that later requests are served meanwhile; a new thread is started only if none is waiting for the lead. When all threads
are busy nobody reads: the client gets back-pressure. The reader's buffer belongs to the leader. Large requests take
limited memory (memory.py); those that get none are served piece by piece.

A malformed request is answered with an error if its length is known, otherwise the connection is closed; it never
affects the device or other connections.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from farshore.export.device import Device
from farshore.export.nbd import wire
from farshore.export.nbd.memory import PIECE, Share
from farshore.export.nbd.negotiation import ProtocolViolation
from farshore.export.nbd.wire import Chunk, Command, CommandFlag, NbdError
from farshore.model.errors import FarshoreError, NoSpace, Refused
from farshore.model.identifiers import BLOCK

log = logging.getLogger(__name__)

_RECEIVE_BYTES = 512 << 10
_SEND_BYTES = 1 << 20
_QUICK_BYTES = 256 << 10
"""Reads and writes up to this size may be served by the leader."""
_SPARSE_BYTES = 64 << 10
"""Reads from this size on are answered as data and holes."""
_MAXIMUM_THREADS = 16
_MAXIMUM_EXTENTS = 4096
_ZEROES = memoryview(bytes(PIECE))

_READ = int(Command.READ)
_WRITE = int(Command.WRITE)
_FUA = int(CommandFlag.FUA)
_NO_HOLE = int(CommandFlag.NO_HOLE)
_ALLOWED_FLAGS = {
    Command.READ: int(CommandFlag.DF),
    Command.WRITE: _FUA,
    Command.FLUSH: 0,
    Command.TRIM: _FUA,
    Command.WRITE_ZEROES: _FUA | int(CommandFlag.NO_HOLE),
    Command.BLOCK_STATUS: int(CommandFlag.REQ_ONE),
}


class Request(NamedTuple):
    """One request; ``payload`` only for a write."""

    flags: int
    command: int
    cookie: int
    offset: int
    length: int
    payload: memoryview


class Connection:
    """Serves ``device`` on ``peer`` until the client leaves. ``on_close`` is called once, after the last reply."""

    def __init__(
        self,
        peer: socket.socket,
        device: Device,
        *,
        structured: bool,
        allocation_context: int,
        share: Share,
        on_close: Callable[[Connection], None],
    ) -> None:
        self._share = share
        self._peer = peer
        self._device = device
        self._size = device.size
        self._structured = structured
        self._allocation_context = allocation_context
        self._on_close = on_close
        self._lead = threading.Lock()
        self._sending = threading.Lock()
        self._counting = threading.Lock()
        self._threads = 1
        self._waiting = 0
        self._ended = False
        self._in = memoryview(bytearray(_RECEIVE_BYTES))
        self._start = 0
        self._end = 0
        self._out = memoryview(bytearray(_SEND_BYTES))
        self._ready = 0
        self._spare: memoryview | None = None
        """For large reads without memory of their own; the sending thread uses it."""
        self._working = 0
        self._blocked = 0
        self._heard = time.monotonic()
        self.used = False
        """Whether there was any request."""
        # What comes before the data of a successful small read.
        self._prefix = wire.CHUNK_DATA.size if structured else wire.SIMPLE_REPLY.size

    def serve(self) -> None:
        """Take turns at leading until the connection ends; the body of each of its threads."""
        try:
            while True:
                with self._counting:
                    self._waiting += 1
                with self._lead:
                    with self._counting:
                        self._waiting -= 1
                    if self._ended:
                        return
                    try:
                        request = self._next_slow_request()
                    except BaseException:
                        # Before the lead is free: nobody may continue to read a stream whose position is lost.
                        self._ended = True
                        raise
                    if request is None:
                        self._ended = True
                        return
                    self._have_a_follower()
                try:
                    self._carry_out(request)
                finally:
                    with self._counting:
                        self._working -= 1
                    if len(request.payload) > _QUICK_BYTES:
                        self._share.give(len(request.payload))
        except (OSError, ProtocolViolation) as error:
            log.info("An NBD connection ended: %s.", error)
        except Exception:
            log.exception("An NBD connection was dropped because of a fault in the server.")
        finally:
            self._leave()

    def close(self) -> None:
        """End the connection from the server's side: nothing more is read, requests in progress are finished."""
        self._ended = True
        _quietly(lambda: self._peer.shutdown(socket.SHUT_RD))

    @property
    def ended(self) -> bool:
        """Whether nothing more is read from the client."""
        return self._ended

    def idle_since(self) -> float | None:
        """Return when the client was last active, by the monotonic clock, if nothing is done for it now or it does not
        read its replies; otherwise None."""
        return self._heard if self._blocked or not self._working else None

    def cut(self) -> None:
        """End the connection at once."""
        self._ended = True
        _quietly(lambda: self._peer.shutdown(socket.SHUT_RDWR))

    def _leave(self) -> None:
        self._ended = True
        with self._counting:
            self._threads -= 1
            last = self._threads == 0
        if last:
            self._share.close()
            self._peer.close()
            self._on_close(self)
        else:
            # Wakes a thread that reads, if this thread caused the end.
            _quietly(lambda: self._peer.shutdown(socket.SHUT_RD))

    def _have_a_follower(self) -> None:
        with self._counting:
            self._working += 1
            if self._waiting or self._threads >= _MAXIMUM_THREADS:
                return
            self._threads += 1
        threading.Thread(target=self.serve, name="nbd", daemon=True).start()

    # The leader's part.

    def _next_slow_request(self) -> Request | None:
        """Answer requests until one may have to wait; None when the client leaves or the stream ends."""
        header = wire.REQUEST.size
        unpack = wire.REQUEST.unpack_from
        device = self._device
        while True:
            if self._end - self._start < header:
                self._send_ready()
                if not self._fill(header):
                    return None
            magic, flags, command, cookie, offset, length = unpack(self._in, self._start)
            if magic != wire.REQUEST_MAGIC:
                raise ProtocolViolation("wrong request magic")
            if command == Command.DISC:
                self._send_ready()
                return None
            self._start += header
            self.used = True
            if (
                command == _READ
                and flags == 0
                and 0 < length <= _QUICK_BYTES
                and offset + length <= self._size
                and (length < _SPARSE_BYTES or not self._structured)
                and device.quick(offset, length)
            ):
                self._read_now(cookie, offset, length)
                continue
            request = Request(flags, command, cookie, offset, length, memoryview(b""))
            if command == _WRITE and length > _QUICK_BYTES and not self._may_hold(length):
                self._append(self._write_through(request))
                continue
            if command == _WRITE:
                request = request._replace(payload=self._payload(length))
                if not flags and length <= _QUICK_BYTES and self._sound(request) and not (offset | length) % BLOCK:
                    self._append(self._outcome(request))
                    continue
                if length and self._in.obj is request.payload.obj:
                    request = request._replace(payload=memoryview(bytes(request.payload)))
            self._send_ready()
            return request

    def _read_now(self, cookie: int, offset: int, length: int) -> None:
        """Read straight into the send buffer, after the reply's head."""
        head = self._ready
        if head + self._prefix + length > _SEND_BYTES:
            self._send_ready()
            head = 0
        data = head + self._prefix
        try:
            self._device.read_into(offset, self._out[data : data + length])
        except (FarshoreError, OSError) as error:
            self._append(self._failure(cookie, _number_of(error, "read", offset, length)))
            return
        self._data_head(self._out, head, cookie, offset, length, last=True)
        self._ready = data + length

    def _append(self, reply: bytes) -> None:
        if self._ready + len(reply) > _SEND_BYTES:
            self._send_ready()
        self._out[self._ready : self._ready + len(reply)] = reply
        self._ready += len(reply)

    def _send_ready(self) -> None:
        if self._ready:
            with self._sending:
                self._give_out(self._out[: self._ready])
            self._ready = 0

    def _fill(self, wanted: int) -> bool:
        """Get ``wanted`` bytes into the buffer. Return False if the client has gone between requests."""
        held = self._end - self._start
        if self._start and (held == 0 or self._start + wanted > _RECEIVE_BYTES):
            self._in[:held] = bytes(self._in[self._start : self._end])
            self._start, self._end = 0, held
        while self._end - self._start < wanted:
            count = self._peer.recv_into(self._in[self._end :])
            if count == 0:
                if self._end == self._start:
                    return False
                raise ProtocolViolation("the client closed the connection during a request")
            self._end += count
            self._heard = time.monotonic()
        return True

    def _payload(self, length: int) -> memoryview:
        """Return the bytes of a write: a view of the receive buffer if they fit, otherwise a separate buffer."""
        if length <= _QUICK_BYTES:
            if self._end - self._start < length:
                self._send_ready()
                if not self._fill(length):
                    raise ProtocolViolation("the client closed the connection during a request")
            payload = self._in[self._start : self._start + length]
            self._start += length
            return payload
        self._send_ready()
        whole = memoryview(bytearray(length))
        self._receive_into(whole)
        return whole

    def _may_hold(self, length: int) -> bool:
        """Take memory for a write's payload; return whether there is enough. Raises ProtocolViolation."""
        if length > wire.MAXIMUM_PAYLOAD:
            raise ProtocolViolation("a write is larger than the limit")
        return self._share.take(length)

    def _write_through(self, request: Request) -> bytes:
        """Write a payload as it arrives, piece by piece; return the reply. A write that fails is still read to its
        end."""
        self._send_ready()  # waiting replies must be sent first: their buffer is needed
        answer = self._objection(request)
        for at in range(0, request.length, PIECE):
            piece = self._out[: min(PIECE, request.length - at)]
            self._receive_into(piece)
            if answer is None:
                try:
                    self._device.write(request.offset + at, piece)
                except (FarshoreError, OSError) as error:
                    answer = _number_of(error, "write", request.offset + at, len(piece))
        if answer is not None:
            return self._failure(request.cookie, answer)
        if request.flags & _FUA:
            return self._outcome(request._replace(command=Command.FLUSH, flags=0, offset=0, length=0))
        return self._success(request.cookie)

    def _receive_into(self, buffer: memoryview) -> None:
        """Fill ``buffer``, first with what has already arrived."""
        held = min(self._end - self._start, len(buffer))
        buffer[:held] = self._in[self._start : self._start + held]
        self._start += held
        rest = buffer[held:]
        while rest:
            count = self._peer.recv_into(rest)
            if count == 0:
                raise ProtocolViolation("the client closed the connection during a request")
            rest = rest[count:]
            self._heard = time.monotonic()

    # Any thread's part.

    def _carry_out(self, request: Request) -> None:
        # A chunk of data may not be empty: an empty read is answered without one.
        if request.command == _READ and request.length and self._sound(request):
            if self._structured and not request.flags and request.length >= _SPARSE_BYTES:
                self._read_sparse(request)
            else:
                self._read_whole(request)
            return
        self._send(self._outcome(request))

    def _outcome(self, request: Request) -> bytes:
        """Carry out any request except a read; return the reply."""
        device, offset, length = self._device, request.offset, request.length
        wrong = self._objection(request)
        if wrong is not None:
            return self._failure(request.cookie, wrong)
        try:
            if request.command == _WRITE:
                device.write(offset, request.payload)
            elif request.command == Command.WRITE_ZEROES and request.flags & _NO_HOLE:
                for start in range(offset, offset + length, len(_ZEROES)):
                    device.write(start, _ZEROES[: offset + length - start])
            elif request.command in (Command.TRIM, Command.WRITE_ZEROES):
                device.zero(offset, length)
            elif request.command == Command.BLOCK_STATUS:
                return self._status(request)
            if request.flags & _FUA or request.command == Command.FLUSH:
                device.flush()
        except (FarshoreError, OSError) as error:
            what = Command(request.command).name.lower().replace("_", " ")
            return self._failure(request.cookie, _number_of(error, what, offset, length))
        return self._success(request.cookie)

    def _sound(self, request: Request) -> bool:
        return self._objection(request) is None

    def _objection(self, request: Request) -> NbdError | None:
        """Return the error for a malformed request, found without using the device."""
        try:
            command = Command(request.command)
        except ValueError:
            return NbdError.EINVAL
        if request.flags & ~_ALLOWED_FLAGS.get(command, 0):
            return NbdError.EINVAL
        if command is Command.FLUSH:
            return None if request.offset == 0 and request.length == 0 else NbdError.EINVAL
        if command in (Command.WRITE, Command.TRIM, Command.WRITE_ZEROES) and not self._device.writable:
            return NbdError.EPERM
        if command is Command.BLOCK_STATUS and not (self._allocation_context and self._structured and request.length):
            return NbdError.EINVAL
        if request.offset + request.length > self._size:
            return NbdError.ENOSPC if command in (Command.WRITE, Command.WRITE_ZEROES) else NbdError.EINVAL
        if command is Command.READ:
            if request.flags and not self._structured:
                return NbdError.EINVAL
            if request.length > wire.MAXIMUM_PAYLOAD:
                return NbdError.EOVERFLOW if request.flags else NbdError.EINVAL
        return None

    def _read_whole(self, request: Request) -> None:
        if not self._share.take(request.length):
            self._read_through(request)
            return
        try:
            reply = memoryview(bytearray(self._prefix + request.length))
            try:
                self._device.read_into(request.offset, reply[self._prefix :])
            except (FarshoreError, OSError) as error:
                number = _number_of(error, "read", request.offset, request.length)
                self._send(self._failure(request.cookie, number))
                return
            self._data_head(reply, 0, request.cookie, request.offset, request.length, last=True)
            self._send(reply)
        finally:
            self._share.give(request.length)

    def _read_through(self, request: Request) -> None:
        """Answer a read by one reply that is sent while it is read. A read that fails in between ends the connection:
        the protocol has no other way to report it."""
        with self._sending:
            buffer = self._own_piece()
            for at in range(0, request.length, PIECE):
                data = buffer[self._prefix : self._prefix + min(PIECE, request.length - at)]
                try:
                    self._device.read_into(request.offset + at, data)
                except (FarshoreError, OSError) as error:
                    number = _number_of(error, "read", request.offset + at, len(data))
                    if at:
                        raise ConnectionAbortedError("a read failed after its reply had begun") from error
                    self._give_out(self._failure(request.cookie, number))
                    return
                if at:
                    self._give_out(data)
                else:
                    self._data_head(buffer, 0, request.cookie, request.offset, request.length, last=True)
                    self._give_out(buffer[: self._prefix + len(data)])

    def _own_piece(self) -> memoryview:
        """Return the connection's own piece, for the sending thread."""
        if self._spare is None:
            self._spare = memoryview(bytearray(self._prefix + PIECE))
        return self._spare

    def _read_sparse(self, request: Request) -> None:
        """Answer a large read in pieces: holes without their zeroes, data as it arrives."""
        cookie, end = request.cookie, request.offset + request.length
        buffer = self._share.borrow()
        try:
            for extent in self._device.extents(request.offset, request.length):
                stop = extent.offset + extent.length
                if extent.zero:
                    flags = wire.CHUNK_DONE if stop == end else 0
                    hole = (Chunk.OFFSET_HOLE, cookie, 12, extent.offset, extent.length)
                    self._send(wire.CHUNK_HOLE.pack(wire.CHUNK_MAGIC, flags, *hole))
                    continue
                for offset in range(extent.offset, stop, PIECE):
                    count = min(PIECE, stop - offset)
                    if buffer is not None:
                        self._send(self._data_piece(buffer, cookie, offset, count, end))
                        continue
                    with self._sending:
                        self._give_out(self._data_piece(self._own_piece(), cookie, offset, count, end))
        except (FarshoreError, OSError) as error:
            if isinstance(error, ConnectionError):
                raise
            self._send(self._failure(cookie, _number_of(error, "read", request.offset, request.length)))
        finally:
            if buffer is not None:
                self._share.put_back(buffer)

    def _data_piece(self, buffer: memoryview, cookie: int, offset: int, count: int, end: int) -> memoryview:
        """Return a chunk with ``count`` bytes from ``offset``, read into ``buffer``; ``end`` is where the request
        ends."""
        self._device.read_into(offset, buffer[self._prefix : self._prefix + count])
        self._data_head(buffer, 0, cookie, offset, count, last=offset + count == end)
        return buffer[: self._prefix + count]

    def _status(self, request: Request) -> bytes:
        count = 1 if request.flags & CommandFlag.REQ_ONE else _MAXIMUM_EXTENTS
        rows = [self._allocation_context]
        for extent in islice(self._device.extents(request.offset, request.length), count):
            rows += (extent.length, wire.STATE_HOLE_ZERO if extent.zero else 0)
        body = struct.pack(f">{len(rows)}I", *rows)
        head = (wire.CHUNK_MAGIC, wire.CHUNK_DONE, Chunk.BLOCK_STATUS, request.cookie, len(body))
        return wire.CHUNK.pack(*head) + body

    def _data_head(self, into: memoryview, at: int, cookie: int, offset: int, length: int, *, last: bool) -> None:
        if self._structured:
            flags = wire.CHUNK_DONE if last else 0
            head = (wire.CHUNK_MAGIC, flags, Chunk.OFFSET_DATA, cookie, length + 8, offset)
            wire.CHUNK_DATA.pack_into(into, at, *head)
        else:
            wire.SIMPLE_REPLY.pack_into(into, at, wire.SIMPLE_REPLY_MAGIC, 0, cookie)

    def _success(self, cookie: int) -> bytes:
        if self._structured:
            return wire.CHUNK.pack(wire.CHUNK_MAGIC, wire.CHUNK_DONE, Chunk.NONE, cookie, 0)
        return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, cookie)

    def _failure(self, cookie: int, number: NbdError) -> bytes:
        if self._structured:
            return wire.CHUNK_ERROR.pack(wire.CHUNK_MAGIC, wire.CHUNK_DONE, Chunk.ERROR, cookie, 6, number, 0)
        return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, number, cookie)

    def _send(self, reply: bytes | memoryview) -> None:
        with self._sending:
            self._give_out(reply)

    def _give_out(self, data: bytes | memoryview) -> None:
        """Send, in the caller's turn. This blocks while the client does not read."""
        self._blocked += 1
        try:
            self._peer.sendall(data)
        finally:
            self._blocked -= 1


def _number_of(error: FarshoreError | OSError, what: str, offset: int, length: int) -> NbdError:
    """Log a failed operation (here is where its error ends) and choose the protocol's number for it."""
    log.error("A %s of %d bytes at %d failed: %s", what, length, offset, error)
    if isinstance(error, NoSpace) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        return NbdError.ENOSPC
    return NbdError.EPERM if isinstance(error, Refused) else NbdError.EIO


def _quietly(act: Callable[[], None]) -> None:
    """Shut down a socket that may already be closed."""
    try:
        act()
    except OSError as error:
        log.debug("The peer had gone: %s.", error)
