"""An agent that reaches its servers over connections that its host opens into it, with both sides of the way real."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine, fresh_catalog
from tests.waiting import until

from farshore.api_types.commands import UninstallArguments
from farshore.catalog import commands, guest_scripts
from farshore.catalog.database import Catalog
from farshore.catalog.tables import FailoverRow, GuestScriptRow, MachineRow
from farshore.mobility.control import led_out
from farshore.mobility.control.led_out import WayOut
from farshore.model.led_out import read_wish, wish
from farshore.protection.commands import ask
from farshore.recovery.leading_out import LeadingOut

FAILOVER = "aaaaaaaa-0000-4000-8000-000000000000"


@dataclass
class Site:
    """farshore.sites.port.Leading: the guest is this process."""

    port: int
    asked: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)

    def lead_in(self, failover: str, port: int) -> int:
        self.asked.append(failover)
        self.ports.append(port)
        return self.port


@dataclass
class Context:
    """The part of RecoveryContext that is used."""

    catalog: Catalog
    opened: Site

    def site(self, _name: str) -> Site:
        return self.opened


@pytest.fixture
def way() -> Iterator[WayOut]:
    made = WayOut(0)
    made.start()
    yield made
    made.close()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    with made.writing() as tx:
        add_machine(tx, state="resync", site="qemu", owner=FAILOVER)
        tx.add(FailoverRow(id=FAILOVER, machine=MACHINE, kind="failover", state="committed", site="qemu", request={},
                           requested=NOW))  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that answers what it hears."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(peer: socket.socket) -> None:
        with peer:
            while heard := peer.recv(65536):
                peer.sendall(heard)

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(peer,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def connect(way: WayOut, name: str) -> tuple[socket.socket, bytes]:
    peer = socket.create_connection(("127.0.0.1", way.proxy_port), timeout=120)
    peer.sendall(f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    return peer, peer.recv(4096)


def is_refused(way: WayOut, name: str) -> bool:
    peer, answer = connect(way, name)
    with peer:
        return b"502" in answer


def talks(way: WayOut, name: str) -> bool:
    peer, answer = connect(way, name)
    with peer:
        if not answer.startswith(b"HTTP/1.1 200"):
            return False
        said = bytes(range(256)) * 1024
        threading.Thread(target=peer.sendall, args=(said,), daemon=True).start()
        heard = b""
        while len(heard) < len(said):
            piece = peer.recv(65536)
            assert piece
            heard += piece
        return heard == said


def test_servers_are_reached_by_what_is_led_in_and_nothing_else_is(way: WayOut, catalog: Catalog, echo: int) -> None:
    context = Context(catalog, Site(way.port))
    servers = {("dr.example.com", 443): ("127.0.0.1", echo), ("gone.example.com", 443): ("127.0.0.1", 1)}
    leading = LeadingOut(context, lambda: servers, dict)  # type: ignore[arg-type]
    try:
        leading.look()
        until(lambda: len(way._waiting) == 3, "the connections that stand open")
        for _ in range(8):  # more than stand open at a time, so they are made anew
            until(lambda: bool(way._waiting), "one more")
            assert talks(way, "dr.example.com:443")
        assert is_refused(way, "gone.example.com:443")
        until(lambda: bool(way._waiting), "one more")
        assert is_refused(way, "elsewhere.invalid:443")
        with catalog.writing() as tx:
            tx.get_one(FailoverRow, FAILOVER).stopped = True
        leading.look()
        until(lambda: all(led_out._spent(one) for one in way._waiting), "the end of all of them")
    finally:
        leading.close()


@pytest.mark.parametrize("state", ["committed", "failed-over", "unprotected"])
def test_a_machine_that_is_not_replicated_is_led_nowhere(catalog: Catalog, state: str) -> None:
    with catalog.writing() as tx:
        row = tx.get_one(FailoverRow, FAILOVER)
        tx.get_one(MachineRow, row.machine).state = state
    site = Site(1)
    leading = LeadingOut(Context(catalog, site), dict, dict)  # type: ignore[arg-type]
    leading.look()
    leading.close()
    assert site.asked == []


def test_a_migrated_machine_is_led_out_until_its_agent_has_taken_itself_off(catalog: Catalog) -> None:
    """One that was not migrated is led nowhere, for a command with the same id too."""
    with catalog.writing() as tx:
        tx.get_one(MachineRow, MACHINE).state = "unprotected"
        ask(tx, FAILOVER, MACHINE, UninstallArguments(), NOW)
    for migrate, closed, led in ((False, False, False), (True, False, True), (True, True, False)):
        with catalog.writing() as tx:
            tx.get_one(FailoverRow, FAILOVER).request = {"migrate": migrate}
            if closed:
                commands.withdraw(tx, FAILOVER, NOW)
        leading = LeadingOut(Context(catalog, Site(1)), dict, dict)  # type: ignore[arg-type]
        assert bool(leading._wanted()) is led, (migrate, closed)


def test_a_machine_that_is_to_run_a_script_is_led_to_this_server_for_as_long(catalog: Catalog, echo: int) -> None:
    way = WayOut(0, straight=False)
    way.start()
    site, own = Site(way.port), {("dr.example.com", 443): ("127.0.0.1", echo)}
    others = {**own, ("ps.example.com", 9443): ("127.0.0.1", echo)}
    with catalog.writing() as tx:
        tx.get_one(MachineRow, MACHINE).state = "protected"
        tx.get_one(MachineRow, MACHINE).site = ""  # the source is protected: a test runs beside it
        tx.get_one(FailoverRow, FAILOVER).state = "running"
    leading = LeadingOut(Context(catalog, site), lambda: others, lambda: own)  # type: ignore[arg-type]
    try:
        leading.look()
        assert site.ports == []
        assert not way.is_led()
        with catalog.writing() as tx:
            made = GuestScriptRow(id="s1", failover=FAILOVER, machine=MACHINE, hardware=FAILOVER, place=0, name="n",
                                  content="", digest="", seconds=1, created=NOW)  # fmt: skip
            guest_scripts.add(tx, made)
        leading.look()
        until(way.is_led, "the connections that stand open")
        assert set(site.ports) == {9447}
        assert talks(way, "dr.example.com:443")
        until(way.is_led, "one more")
        assert is_refused(way, "ps.example.com:9443")
        with catalog.writing() as tx:
            guest_scripts.withdraw(tx, FAILOVER, 0, NOW)
        leading.look()
        until(lambda: not way.is_led(), "the end of all of them")
        assert is_refused(way, f"127.0.0.1:{echo}"), "it went straight"
    finally:
        leading.close()
        way.close()


def test_without_a_connection_that_stands_open_it_goes_straight(way: WayOut, echo: int) -> None:
    assert talks(way, f"127.0.0.1:{echo}")


def test_only_a_recovered_machine_without_a_proxy_is_led_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    vendor = tmp_path / "sys_vendor"
    monkeypatch.setattr(led_out, "_DMI_VENDOR", vendor)
    made: list[int] = []

    class Noted(WayOut):
        def __init__(self, port: int) -> None:
            made.append(port)
            super().__init__(0)

        def start(self) -> None:
            self.close()

    monkeypatch.setattr(led_out, "WayOut", Noted)
    led_out.lead_out()  # no such file
    vendor.write_text("QEMU\n")
    led_out.lead_out()
    assert made == []
    vendor.write_text("Farshore\n")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    led_out.lead_out()
    assert made == []
    monkeypatch.delenv("HTTPS_PROXY")
    led_out.lead_out()
    assert made == [9446]
    monkeypatch.setenv("HTTPS_PROXY", "")  # what it has set ends with this test


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (wish("dr.example.com", 443), ("dr.example.com", 443)),
        (wish("2001:db8::1", 9443), ("2001:db8::1", 9443)),
        (b"connect DR.example.com:443\n", ("dr.example.com", 443)),
        (b"connect :443\n", None),
        (b"connect host:0\n", None),
        (b"connect host:65536\n", None),
        (b"GET / HTTP/1.1\n", None),
        (b"\xff\xfe\n", None),
    ],
)
def test_a_wish_names_a_server(line: bytes, found: tuple[str, int] | None) -> None:
    assert read_wish(line) == found
