"""Decide where the Ethernet frames of a bubble go, and answer DHCP requests. Pure.

The DHCP server gives each card the address that its machine has at the source. It offers no router and no name server,
because a bubble has neither.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_MOST_LEARNED = 4096
_LEASE_SECONDS = 86400
_MAGIC = b"\x63\x82\x53\x63"
_ANSWERS = {1: 2, 3: 5, 8: 5}
"""The answer to each message of a client: DISCOVER gets OFFER, REQUEST and INFORM get ACK (RFC 2131)."""
Send = Callable[[bytes], None]


@dataclass
class Switch:
    """Learns which port each address is behind. A frame for an unknown address goes to all ports except its own."""

    ports: dict[int, Send] = field(default_factory=dict)
    _learned: dict[bytes, int] = field(default_factory=dict)

    def pass_on(self, source: int, frame: bytes) -> None:
        """Send a frame that arrived at a port to its destination."""
        if len(frame) < 14:
            return
        to, by = frame[:6], frame[6:12]
        if not by[0] & 1 and (by in self._learned or len(self._learned) < _MOST_LEARNED):
            self._learned[by] = source
        known = None if to[0] & 1 else self.ports.get(self._learned.get(to, -1))
        if known is not None:
            if self._learned[to] != source:
                known(frame)
            return
        for number, send in list(self.ports.items()):
            if number != source:
                send(frame)

    def forget(self, port: int) -> None:
        """Remove a port and the addresses that were learned for it."""
        self.ports.pop(port, None)
        self._learned = {address: number for address, number in self._learned.items() if number != port}


def dhcp_answer(
    frame: bytes, leases: Mapping[bytes, ipaddress.IPv4Interface], server: bytes, servers: Mapping[str, str]
) -> bytes | None:
    """Return the answer to a DHCP request of a card in ``leases``, or None for any other frame. ``server`` is our MAC
    address, ``servers`` our address by network."""
    if len(frame) < 14 + 20 + 8 + 240 or frame[12:14] != b"\x08\x00" or frame[23] != 17:
        return None
    begin = 14 + (frame[14] & 15) * 4
    if frame[begin + 2 : begin + 4] != b"\0\x43":
        return None
    request = frame[begin + 8 :]
    lease = leases.get(request[28:34])
    if lease is None or request[0] != 1 or request[236:240] != _MAGIC:
        return None
    kind = _ANSWERS.get(_option(request[240:], 53))
    own = servers.get(str(lease.network))
    if kind is None or own is None:
        return None
    ours = ipaddress.IPv4Address(own).packed
    head = bytes((2, 1, 6, 0)) + request[4:8] + bytes(4) + request[12:16] + lease.ip.packed + ours + bytes(4)
    body = head + request[28:44] + bytes(192) + _MAGIC
    body += bytes((53, 1, kind, 54, 4)) + ours + b"\x33\x04" + struct.pack(">I", _LEASE_SECONDS)
    body += b"\x01\x04" + lease.netmask.packed + b"\xff"
    udp = struct.pack(">HHHH", 67, 68, 8 + len(body), 0) + body
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + ours + b"\xff" * 4
    ip = ip[:10] + struct.pack(">H", _checksum(ip)) + ip[12:]
    return request[28:34] + server + b"\x08\x00" + ip + udp


def _option(options: bytes, wanted: int) -> int:
    """Return the first byte of an option, or 0 if the option is missing."""
    at = 0
    while at + 1 < len(options) and options[at] != 255:
        if options[at] == 0:
            at += 1
            continue
        if options[at] == wanted and at + 2 < len(options):
            return options[at + 2]
        at += 2 + options[at + 1]
    return 0


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
