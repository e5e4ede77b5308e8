"""The network that tests share: its members reach each other and nothing else, forwarded ports lead in, and nothing is
left of it whatever died."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.contract.libvirt_place import libvirt_place
from tests.contract.places import QemuPlace, open_site, qemu_place, short_folder
from tests.loopdisks import require_root
from tests.waiting import until

from farshore.lab.ports import free_port
from farshore.model.errors import Refused, TryLater
from farshore.model.machine import NicDescription
from farshore.sites.bubble.client import BubbleAddress
from farshore.sites.port import Condition

pytestmark = pytest.mark.root
ONE, TWO = NicDescription("eth0", "52:54:00:00:00:01", ("10.9.0.5/24",)), NicDescription("eth0", "52:54:00:00:00:02",
                                                                                         ("10.9.0.6/24",))  # fmt: skip


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@dataclass
class Guest:
    process: subprocess.Popen[str]

    def ask(self, host: str, port: int, seconds: float = 90.0) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"get {host} {port} {seconds}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextlib.contextmanager
def guest(bubble: BubbleAddress, failover: str, nic: NicDescription, **forward: int) -> Iterator[Guest]:
    (cable,) = bubble.join(failover, [nic], {forward["port"]: 80} if forward else {})
    script = Path(__file__).with_name("bubble_guest.py")
    own = [sys.executable, str(script), str(cable), nic.mac, nic.addresses[0], failover]
    command = ["unshare", "--net", "--", "sh", "-c", 'exec "$@" 3<>/dev/net/tun', "sh", *own]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(cable,)
    ) as process:
        os.close(cable)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield Guest(process)
        finally:
            process.kill()


def heard(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=90) as peer:
        return peer.recv(100)


def processes(bubble: BubbleAddress) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if f"--socket={bubble.socket}\0".encode() in words and b"python" in words.split(b"\0")[0]:
                found.append(int(entry.name))
    return found


def is_gone(bubble: BubbleAddress) -> bool:
    return not processes(bubble) and not bubble.socket.exists()


def test_members_reach_each_other_and_nothing_else() -> None:
    ports = free_port(), free_port()
    with short_folder() as folder, socket.create_server(("0.0.0.0", 0)) as of_host:
        bubble = BubbleAddress(folder / "n", "lab")
        outside = of_host.getsockname()[1]
        with guest(bubble, "a", ONE, port=ports[0]) as a, guest(bubble, "b", TWO, port=ports[1]) as b:
            assert a.ask("10.9.0.6", 80) == "b"
            assert b.ask("10.9.0.5", 80) == "a"
            assert [heard(port) for port in ports] == [b"a", b"b"]
            assert bubble.answers("a", 80)
            assert not bubble.answers("a", 81)
            assert bubble.members() == {"a": ["10.9.0.5/24"], "b": ["10.9.0.6/24"]}
            # The probe's own address is the last one: nothing of this host listens there, and no other is reached.
            own = socket.gethostbyname(socket.gethostname())
            for host in ("10.9.0.254", own, "127.0.0.1"):
                assert a.ask(host, outside, seconds=5).startswith("error"), host
            with pytest.raises(Refused, match="failover a has the address 10\\.9\\.0\\.5"):
                bubble.join("c", [ONE], {})
            with pytest.raises(TryLater, match=f"Port {outside} "):
                bubble.join("c", [replace(TWO, addresses=("10.9.0.7/24",))], {outside: 80})
        until(lambda: is_gone(bubble), "the end of a network without members")
        with pytest.raises(ConnectionRefusedError):
            heard(ports[0])
        bubble.tidy()
        assert not bubble.folder.exists()


def test_another_network_is_another_one() -> None:
    with short_folder() as folder:
        one, two = BubbleAddress(folder / "n", "one"), BubbleAddress(folder / "n", "two")
        with guest(one, "a", ONE) as a, guest(two, "b", TWO), guest(two, "c", ONE):
            assert a.ask("10.9.0.6", 80, seconds=5).startswith("error")
        until(lambda: is_gone(one) and is_gone(two), "their ends")


def test_a_member_that_dies_leaves_and_may_come_again() -> None:
    port = free_port()
    with short_folder() as folder:
        bubble = BubbleAddress(folder / "n", "lab")
        with guest(bubble, "b", TWO) as b:
            with guest(bubble, "a", ONE, port=port):
                assert heard(port) == b"a"
            until(lambda: list(bubble.members()) == ["b"], "its leave")
            assert not bubble.answers("a", 80)
            with guest(bubble, "a", ONE, port=port):
                assert b.ask("10.9.0.5", 80) == "a"
                assert heard(port) == b"a"
        until(lambda: is_gone(bubble), "its end")


def test_a_connection_to_a_member_that_died_ends() -> None:
    port = free_port()
    with short_folder() as folder:
        bubble = BubbleAddress(folder / "n", "lab")
        with (
            guest(bubble, "b", TWO),
            guest(bubble, "holds", ONE, port=port) as held,
            socket.create_connection(("127.0.0.1", port), timeout=90) as peer,
        ):
            assert peer.recv(100) == b"holds"
            held.process.kill()
            with contextlib.suppress(ConnectionResetError):
                assert peer.recv(100) == b""
        until(lambda: is_gone(bubble), "its end")


def test_a_connection_to_a_member_that_died_before_it_answered_ends() -> None:
    port = free_port()
    with short_folder() as folder:
        bubble = BubbleAddress(folder / "n", "lab")
        with guest(bubble, "b", TWO), guest(bubble, "silent", ONE, port=port) as silent:
            os.kill(silent.process.pid, signal.SIGSTOP)
            with socket.create_connection(("127.0.0.1", port), timeout=90) as peer:
                peer.settimeout(2)
                with pytest.raises(TimeoutError):
                    peer.recv(100)
                silent.process.kill()
                peer.settimeout(30)  # half of what a relay waits for a guest that says nothing
                with contextlib.suppress(ConnectionResetError):
                    assert peer.recv(100) == b""
        until(lambda: is_gone(bubble), "its end")


def discover(mac: str) -> bytes:
    """A DHCPDISCOVER as a guest sends it."""
    client = bytes.fromhex(mac.replace(":", ""))
    body = bytes((1, 1, 6, 0)) + b"four" + bytes(20) + client + bytes(10 + 192) + b"\x63\x82\x53\x63\x35\x01\x01\xff"
    udp = struct.pack(">HHHH", 68, 67, 8 + len(body), 0) + body
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + bytes(4) + b"\xff" * 4
    return b"\xff" * 6 + client + b"\x08\x00" + ip + udp


def test_each_card_is_given_the_address_that_it_has_at_the_source() -> None:
    nameless = NicDescription("eth1", "52:54:00:00:00:03")
    with short_folder() as folder:
        bubble = BubbleAddress(folder / "n", "lab")
        ends = bubble.join("a", [ONE, nameless], {})
        for end, nic, address in zip(ends, (ONE, nameless), ((10, 9, 0, 5), (10, 0, 2, 15)), strict=True):
            with socket.socket(fileno=end) as cable:
                cable.settimeout(90)
                frame = discover(nic.mac)
                cable.sendall(len(frame).to_bytes(4, "big") + frame)
                offer = b""
                with cable.makefile("rb") as stream:
                    while b"\x63\x82\x53\x63\x35\x01\x02" not in offer:
                        offer = stream.read(int.from_bytes(stream.read(4), "big"))
                assert offer[42 + 16 : 42 + 20] == bytes(address)
                assert b"\x01\x04\xff\xff\xff\x00" in offer
                assert b"\x03\x04" not in offer[282:], "there is no router"
        until(lambda: is_gone(bubble), "its end")


def test_a_member_whose_process_others_start_is_one_as_any_other_or_leaves() -> None:
    port = free_port()
    with short_folder() as folder:
        bubble = BubbleAddress(folder / "n", "lab")
        cable = folder / "cable"
        with guest(bubble, "b", TWO):
            bubble.join_at("a", [ONE], {port: 80}, [cable])
            with socket.socket(socket.AF_UNIX) as end:
                end.connect(str(cable))
                end.settimeout(90)
                frame = discover(ONE.mac)
                end.sendall(len(frame).to_bytes(4, "big") + frame)
                assert end.recv(4), "it is offered an address"
                assert sorted(bubble.members()) == ["a", "b"]
            until(lambda: list(bubble.members()) == ["b"], "its leave")
            bubble.join_at("never", [ONE], {port: 80}, [cable])
            assert sorted(bubble.members()) == ["b", "never"]
            bubble.leave("never")
            assert list(bubble.members()) == ["b"]
            socket.create_server(("127.0.0.1", port)).close()
        until(lambda: is_gone(bubble), "its end")


@contextlib.contextmanager
def place_of(kind: str) -> Iterator[QemuPlace]:
    with libvirt_place() if kind == "libvirt" else qemu_place() as made:
        yield made


def started(place: QemuPlace, name: str, nic: NicDescription, port: int) -> tuple[Any, str]:
    site: Any = open_site(place.kind, place.folder)
    machine = replace(place.order().machine, nics=(nic,))
    order = place.order(bubble=name, machine=machine, forward={port: 22})
    site.check(order)
    site.create(order)
    assert site.start(order.failover).condition is Condition.RUNNING
    return site, order.failover


KILLED = [("qemu", one) for one in ("nothing", "machines", "network", "everything")]
KILLED += [("libvirt", one) for one in ("network", "everything")]


@pytest.mark.parametrize(("kind", "killed"), KILLED)
def test_nothing_is_left_of_machines_on_a_network_whatever_died(kind: str, killed: str) -> None:
    with place_of(kind) as place:
        ports = free_port(), free_port()
        site, one = started(place, "lab", ONE, ports[0])
        _, two = started(place, "lab", TWO, ports[1])
        bubble = BubbleAddress(place.folder / ".networks", "lab")
        assert sorted(bubble.members()) == sorted((one, two))
        assert site.present() == tuple(sorted((one, two)))
        assert not site.answers(one, ports[0]), "its boot sector answers nobody"
        if killed in ("network", "everything"):
            for process in processes(bubble):
                os.kill(process, signal.SIGKILL)
        if killed in ("machines", "everything"):
            for failover in (one, two):
                place.kill(failover)
        if killed == "network":
            until(lambda: not processes(bubble), "its end")
            place.kill(one)
            assert site.start(one).condition is Condition.RUNNING
            assert list(bubble.members()) == [one], "who starts anew makes the network anew"
        for failover in (one, two):
            open_site(place.kind, place.folder).destroy(failover)
        until(lambda: is_gone(bubble), "the network's end")
        site.destroy(one)
        bubble.tidy()
        assert list(place.folder.rglob("*")) == [] or [path.name for path in place.folder.iterdir()] == []
        for port in ports:
            socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("kind", ["qemu", "libvirt"])
def test_two_machines_with_one_address_cannot_share_a_network(kind: str) -> None:
    with place_of(kind) as place:
        site, one = started(place, "lab", ONE, free_port())
        with pytest.raises(Refused, match="has the address") as raised:
            started(place, "lab", ONE, free_port())
        assert raised.value.remedy
        assert len([failover for failover in site.present() if place.living(failover)]) == 1
        for failover in site.present():
            site.destroy(failover)
        assert one not in site.present()
