"""The process of one bubble: a switch between its members' cards, and forwarded ports of this host that lead into it.

It runs in its own network namespace, which contains only the switch: nothing leads out, whatever a guest sends. Its own
card there (a TAP device) lets the kernel's TCP reach the members for checks. Connections come in through listening
sockets of this host. They are passed with a member over the control socket, as are the ends of its cards.

When a member closes its cards, the member and its ports are removed. A bubble without members ends. So a network does
not outlive its machines, and because the namespace ends with the process, nothing outlives the process either.

Started by farshore.sites.bubble.client with the opened ``/dev/net/tun`` as descriptor 3.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farshore.sites.bubble.addresses import given, mac_bytes, own_address
from farshore.sites.bubble.frames import Switch, dhcp_answer

_TUN, _TUNSETIFF, _TAP_WITHOUT_HEADER = 3, 0x400454CA, 0x0002 | 0x1000
_CARD, _OWN = "bubble", 0
_LARGEST_FRAME = 65550
_MOST_WAITING = 1 << 20
"""Bytes that may wait for a member; more are dropped, as a switch does."""
_MOST_MESSAGE, _MOST_DESCRIPTORS = 1 << 16, 250
_FIRST_MEMBER_SECONDS, _CONNECT_SECONDS, _MESSAGE_SECONDS = 60.0, 3.0, 5.0
_RELAY_SECONDS = 60.0
"""A guest that refuses answers at once; a silent one may be starting, or have no processor time. A client waits as long
as TCP would let it."""


@dataclass
class _Member:
    addresses: list[ipaddress.IPv4Interface]
    leases: dict[bytes, ipaddress.IPv4Interface]
    """The address of each card, by its MAC address."""
    ports: set[int] = field(default_factory=set)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    servers: list[asyncio.Server] = field(default_factory=list)
    relayed: set[asyncio.StreamWriter] = field(default_factory=set)
    """Both ends of each connection that came in by a forwarded port."""


class Bubble:
    """One network. All its work happens on its event loop."""

    def __init__(self, tap: int, mac: bytes) -> None:
        self._tap, self._mac = tap, mac
        self._switch = Switch({_OWN: self._to_own_card})
        self._members: dict[str, _Member] = {}
        self._own: dict[str, str] = {}
        self._next_port = _OWN
        self._tasks: set[asyncio.Task[None]] = set()
        self.empty = asyncio.Event()

    async def carry_out(self, message: Mapping[str, Any], descriptors: Sequence[int]) -> dict[str, Any]:
        """Carry out one control message. The answer has ``error`` if that fails."""
        failover = str(message.get("failover", ""))
        if message["do"] == "join":
            return await self._join(failover, message, descriptors)
        if message["do"] == "leave":
            self._leave(failover)
            return {}
        if message["do"] == "answers":
            return {"answers": await self._answers(failover, int(message["port"]))}
        return {"members": {name: [str(one) for one in member.addresses] for name, member in self._members.items()}}

    def from_own_card(self) -> None:
        """Forward a frame that the kernel sends to a member."""
        with contextlib.suppress(BlockingIOError):
            self._switch.pass_on(_OWN, os.read(self._tap, _LARGEST_FRAME))

    async def _join(self, failover: str, message: Mapping[str, Any], descriptors: Sequence[int]) -> dict[str, Any]:
        self._leave(failover)
        cards, forward = message["cards"], [int(guest) for guest in message["forward"]]
        taken = {address.ip: name for name, member in self._members.items() for address in member.addresses}
        addresses: list[ipaddress.IPv4Interface] = []
        try:
            for card in cards:
                addresses.append(given(card["address"], {*taken, *(one.ip for one in addresses)}))
                if addresses[-1].ip in taken:
                    other = taken[addresses[-1].ip]
                    return {"error": f"failover {other} has the address {addresses[-1].ip} there", "in_use": True}
            self._take_own({*taken, *(one.ip for one in addresses)}, addresses)
        except ValueError as error:
            return {"error": str(error)}
        macs = [mac_bytes(card["mac"]) for card in cards]
        leases = {mac: address for mac, address in zip(macs, addresses, strict=True) if mac}
        member = self._members[failover] = _Member(addresses, leases)
        for descriptor in descriptors[: len(cards)]:
            end = socket.socket(fileno=os.dup(descriptor))
            if message.get("awaited"):
                self._work(self._await_card(failover, member, end))
            else:
                await self._plug_in(failover, member, end)
        for guest, descriptor in zip(forward, descriptors[len(cards) :], strict=True):
            listener = socket.socket(fileno=os.dup(descriptor))
            target = (str(addresses[0].ip), guest)

            async def relay(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: tuple[str, int] = target
            ) -> None:
                await _relay(reader, writer, target, member.relayed)

            member.servers.append(await asyncio.start_server(relay, sock=listener))
        return {"addresses": [str(one) for one in addresses]}

    def _take_own(self, taken: set[ipaddress.IPv4Address], addresses: list[ipaddress.IPv4Interface]) -> None:
        """Choose our own address in each network of the members. Raises ValueError."""
        for network in {one.network for one in addresses}:
            before = self._own.get(str(network), "")
            if before and ipaddress.IPv4Address(before) not in taken:
                continue
            mine = own_address(network, taken)
            if before:
                _ip("addr", "del", f"{before}/{network.prefixlen}", "dev", _CARD)
            _ip("addr", "add", f"{mine}/{network.prefixlen}", "dev", _CARD)
            self._own[str(network)] = str(mine)

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _await_card(self, failover: str, member: _Member, listener: socket.socket) -> None:
        """Take the first connection as a card's cable; without one, end the membership."""
        with listener:
            try:
                accepting = asyncio.get_running_loop().sock_accept(listener)
                end, _ = await asyncio.wait_for(accepting, _FIRST_MEMBER_SECONDS)
            except (OSError, TimeoutError):
                if not member.ports and self._members.get(failover) is member:
                    self._leave(failover)
                return
        if self._members.get(failover) is member:
            await self._plug_in(failover, member, end)
        else:
            end.close()

    async def _plug_in(self, failover: str, member: _Member, end: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=end)
        self._next_port += 1
        port = self._next_port

        def send(frame: bytes) -> None:
            if writer.transport.get_write_buffer_size() < _MOST_WAITING:
                writer.write(len(frame).to_bytes(4, "big") + frame)

        self._switch.ports[port] = send
        member.ports.add(port)
        member.writers.append(writer)
        self._work(self._listen(failover, member, port, reader))

    async def _listen(self, failover: str, member: _Member, port: int, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                length = int.from_bytes(await reader.readexactly(4), "big")
                if length > _LARGEST_FRAME:
                    break  # it does not follow QEMU's protocol
                self._from_member(member, port, await reader.readexactly(length))
        member.ports.discard(port)
        self._switch.forget(port)
        if not member.ports and self._members.get(failover) is member:
            self._leave(failover)

    def _from_member(self, member: _Member, port: int, frame: bytes) -> None:
        answer = dhcp_answer(frame, member.leases, self._mac, self._own)
        if answer is not None:
            self._switch.ports[port](answer)
        else:
            self._switch.pass_on(port, frame)

    def _to_own_card(self, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # too long, or too many: a card drops those, too
            os.write(self._tap, frame)

    def _leave(self, failover: str) -> None:
        member = self._members.pop(failover, None)
        if member is None:
            return
        for server in member.servers:
            server.close()
        for port in member.ports:
            self._switch.forget(port)
        for writer in member.writers:
            writer.close()
        for writer in member.relayed:
            writer.transport.abort()  # a guest that is gone never ends a connection
        if not self._members:
            self.empty.set()

    async def _answers(self, failover: str, port: int) -> bool:
        member = self._members.get(failover)
        if member is None:
            return False
        try:
            connecting = asyncio.open_connection(str(member.addresses[0].ip), port)
            _, writer = await asyncio.wait_for(connecting, _CONNECT_SECONDS)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True


async def _relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    target: tuple[str, int],
    held: set[asyncio.StreamWriter],
) -> None:
    """Relay a connection of this host to the guest; close it if the guest does not accept one. Both ends are in
    ``held`` as long as it lasts."""
    held.add(writer)
    ends = {writer}
    try:
        far_reader, far_writer = await asyncio.wait_for(asyncio.open_connection(*target), _RELAY_SECONDS)
        ends.add(far_writer)
        if writer.is_closing():
            return  # the member left in the meantime
        held.add(far_writer)
        await asyncio.gather(_pour(reader, far_writer), _pour(far_reader, writer))
    except (OSError, TimeoutError):
        writer.transport.abort()
    finally:
        held -= ends
        for end in ends:
            end.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def serve(listener: socket.socket, tap: int, mac: bytes) -> None:
    """Serve until the last member has left, or until none joined in time."""
    bubble = Bubble(tap, mac)
    loop = asyncio.get_running_loop()
    loop.add_reader(tap, bubble.from_own_card)
    conversations: set[asyncio.Task[None]] = set()

    async def accept() -> None:
        while True:
            peer, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(_converse(bubble, peer))
            conversations.add(task)
            task.add_done_callback(conversations.discard)

    accepting = asyncio.create_task(accept())
    first = loop.call_later(_FIRST_MEMBER_SECONDS, bubble.empty.set)
    while True:
        await bubble.empty.wait()
        bubble.empty.clear()
        first.cancel()
        told = await bubble.carry_out({"do": "status"}, ())
        if not told["members"] and not conversations:
            break
        if not told["members"]:
            await asyncio.wait(conversations)
            bubble.empty.set()
    accepting.cancel()


async def _converse(bubble: Bubble, peer: socket.socket) -> None:
    """Receive one message with its descriptors and send one answer."""
    descriptors: list[int] = []
    try:
        peer.setblocking(True)
        peer.settimeout(_MESSAGE_SECONDS)  # the server on this host sends the whole message at once
        text, descriptors, _, _ = socket.recv_fds(peer, _MOST_MESSAGE, _MOST_DESCRIPTORS)
        if text:
            answer = await bubble.carry_out(json.loads(text), descriptors)
            peer.sendall(json.dumps(answer).encode() + b"\n")
    except (OSError, ValueError, LookupError, TypeError) as error:
        with contextlib.suppress(OSError):
            peer.sendall(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        peer.close()


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def main() -> int:
    """Create the network and serve it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=Path, required=True)
    path: Path = parser.parse_args().socket
    fcntl.ioctl(_TUN, _TUNSETIFF, struct.pack("16sH22x", _CARD.encode(), _TAP_WITHOUT_HEADER))
    os.set_blocking(_TUN, False)
    # read-only in some containers; this namespace contains nothing but this network anyway
    with contextlib.suppress(OSError):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0\n")
    _ip("link", "set", "lo", "up")
    _ip("link", "set", _CARD, "up")
    mac = _mac_of_card()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(64)
        listener.setblocking(False)
        mine = path.stat()
        asyncio.run(serve(listener, _TUN, mac))
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(mine, path.stat()):
                path.unlink()
    return 0


def _mac_of_card() -> bytes:
    """Ask the kernel, because /sys shows the namespace that mounted it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        return fcntl.ioctl(asking, 0x8927, struct.pack("256s", _CARD.encode()))[18:24]


if __name__ == "__main__":
    sys.exit(main())
