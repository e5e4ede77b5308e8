"""Checks of a recovered machine: which are made, how long, and what the record keeps of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, SECOND
from tests.unit.recovery.test_steps import FAILOVER, OTHER, World

from farshore.api_types.checks import Check, CheckKind, Evidence, Verdict
from farshore.api_types.failovers import FailoverRequest
from farshore.catalog import failovers, sites
from farshore.catalog.tables import SiteRow
from farshore.model.errors import Malformed, NotFound, Refused, TryLater
from farshore.model.states import FailoverState
from farshore.recovery import consoles
from farshore.recovery.asking import ask_for
from farshore.recovery.diagnosis import diagnose
from farshore.recovery.evidence import add_evidence, screen_of
from farshore.recovery.ports import ports_for
from farshore.recovery.steps.await_answer import await_answer
from farshore.recovery.steps.check import check
from farshore.recovery.steps.deliver import target_of
from farshore.recovery.steps.remove import note_failed, remove
from farshore.recovery.steps.verify import verify
from farshore.sites.picture import picture_of, png_of
from farshore.sites.port import Condition

SSH = {"kind": "tcp", "port": 22}
WEB = {"kind": "tcp", "port": 80, "within": 5}
PANIC = "[ 1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.catalog.close()


def come_up(world: World, *checks: dict[str, Any], forward: dict[str, int] | None = None) -> None:
    world.change(
        state="running",
        target={"checks": list(checks)},
        forward=forward or {"1022": 22, "1080": 80},
        address="127.0.0.1",
    )
    world.site.condition = Condition.RUNNING
    world.site.answers = lambda _failover, port: port == 1022  # type: ignore[method-assign,assignment]


def evidence(world: World) -> Evidence:
    with world.catalog.reading() as tx:
        return Evidence.model_validate(failovers.get(tx, FAILOVER).evidence)


def write_console(world: World, text: str) -> None:
    kept = world.context.folder / "consoles" / f"{FAILOVER}.log"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(text)


def test_all_that_pass(world: World) -> None:
    come_up(world, SSH)
    world.time.passed = 7
    assert verify(world.context, FAILOVER) == {"verdict": "passed", "passed": 1, "checks": 1}
    found = evidence(world)
    assert (found.verdict, found.rto_seconds, found.checks[0].tries) == (Verdict.PASSED, 7.0, 1)


def test_one_that_fails_is_given_up_when_its_time_is_over_and_the_machine_stays_up(world: World) -> None:
    come_up(world, SSH, WEB)
    assert verify(world.context, FAILOVER)["verdict"] == "failed"
    found = evidence(world)
    assert (found.verdict, found.rto_seconds) == (Verdict.FAILED, None)
    assert [(one.passed, one.tries) for one in found.checks] == [(True, 1), (False, 6)]
    assert world.time.passed == 5
    assert "80 does not answer" in found.checks[1].detail
    assert world.state()[0] == "running"


def test_one_that_passes_late(world: World) -> None:
    come_up(world, {**WEB, "within": 60})
    answers = world.site.answers
    world.site.answers = lambda failover, port: world.time.passed >= 9  # type: ignore[method-assign]
    assert verify(world.context, FAILOVER)["verdict"] == "passed"
    assert evidence(world).rto_seconds == 9.0
    assert answers(FAILOVER, 1022)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["stopped", "cleaned up", "dead"])
def test_a_machine_that_is_taken_away_ends_its_checks(world: World, how: str) -> None:
    come_up(world, {**WEB, "within": 3600})

    def take_away() -> None:
        if how == "stopped":
            world.change(stopped=True)
        elif how == "cleaned up":
            world.change(state=FailoverState.CLEANED_UP.value)
        else:
            world.site.condition = Condition.STOPPED

    world.time.events = [(4, take_away)]
    assert verify(world.context, FAILOVER)["verdict"] == "failed"
    assert world.time.passed == 4
    assert "stopped" in evidence(world).checks[0].detail or "cleaned-up" in evidence(world).checks[0].detail


def test_without_checks_nothing_is_judged(world: World) -> None:
    come_up(world)
    assert verify(world.context, FAILOVER)["verdict"] == "none"
    assert evidence(world).verdict is Verdict.NONE


def test_text_on_the_console(world: World) -> None:
    come_up(world, {"kind": "console", "contains": "login:", "within": 30})
    world.time.events = [(3, lambda: write_console(world, "db1 login: "))]
    assert verify(world.context, FAILOVER)["verdict"] == "passed"
    assert world.time.passed == 3


def test_a_script_of_the_servers_folder(world: World) -> None:
    folder = world.context.scripts
    folder.mkdir()
    script = folder / "orders"
    script.write_text(
        '#!/bin/sh\necho "$FARSHORE_MACHINE at $FARSHORE_ADDRESS:$FARSHORE_PORT_22"\nexec test -e "$0.ok"\n'
    )
    come_up(world, {"kind": "script", "script": "orders", "within": 3})
    with pytest.raises(Refused, match="executable"):
        check_of(world)
    script.chmod(0o755)
    assert verify(world.context, FAILOVER)["verdict"] == "failed"
    assert "status 1: db1 at 127.0.0.1:1022" in evidence(world).checks[0].detail
    (folder / "orders.ok").touch()
    assert verify(world.context, FAILOVER)["verdict"] == "passed"
    script.chmod(0o777)
    with pytest.raises(Refused, match="changed by other users"):
        check_of(world)


def check_of(world: World) -> None:
    """Ask for the failover anew."""
    world.change(state="requested", kind="test")
    try:
        check(world.context, FAILOVER)
    finally:
        world.change(state="running", kind="failover")


def test_a_script_that_is_not_there_is_known_before_a_test_and_keeps_no_machine_down(world: World) -> None:
    world.change(target={"checks": [{"kind": "script", "script": "none"}]}, kind="test")
    with pytest.raises(NotFound, match="none"):
        check(world.context, FAILOVER)
    assert world.state() == ("requested", "protected")
    world.change(kind="failover")
    check(world.context, FAILOVER)
    come_up(world, {"kind": "script", "script": "none", "within": 1})
    assert verify(world.context, FAILOVER)["verdict"] == "failed"
    assert "There is no " in evidence(world).checks[0].detail


def test_ports_that_only_checks_need_are_forwarded(world: World) -> None:
    world.change(target={"checks": [SSH, WEB]}, forward={"2222": 22})
    context = replace(world.context, free_port=iter([2222, 4080]).__next__)
    for _ in range(2):
        check(context, FAILOVER)
    with world.catalog.reading() as tx:
        assert failovers.get(tx, FAILOVER).forward == {"2222": 22, "4080": 80}
    assert ports_for([Check(kind=CheckKind.SSH, port=22)], {22}, set(), lambda: 1) == {}
    with pytest.raises(TryLater):
        ports_for([Check(kind=CheckKind.SSH, port=22)], set(), {5}, lambda: 5)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (PANIC, "no root disk"),
        ("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\n", "panicked"),
        ("ALERT!  UUID=4711 does not exist.  Dropping to a shell!\n(initramfs) ", "no root disk"),
        ("No bootable device.\n", "firmware"),
        ("error: no such device: 4711.\ngrub rescue> ", "boot loader"),
        ("You are in emergency mode. After logging in, type ...\n", "emergency mode"),
    ],
)
def test_what_a_console_tells(text: str, word: str) -> None:
    found = diagnose("GRUB loading.\n" + text)
    assert found is not None
    assert word in found.message
    assert found.remedy
    assert diagnose(text + "x" * 20000) is None, "it has gone on since"


def test_a_healthy_console_tells_nothing() -> None:
    assert diagnose("Debian GNU/Linux 12 db1 ttyS0\ndb1 login: ") is None


def test_a_guest_with_a_panic_is_not_waited_for(world: World) -> None:
    come_up(world, forward={"1080": 80})
    world.change(state="working")
    world.time.events = [(3, lambda: write_console(world, PANIC))]
    with pytest.raises(Refused, match="no root disk") as raised:
        await_answer(world.context, FAILOVER)
    assert raised.value.remedy
    assert world.time.passed == 13, "not the half minute that others have"
    remove(world.context, FAILOVER)
    note_failed(world.context, FAILOVER, str(raised.value), FailoverState.FAILED)
    assert "no root disk" in evidence(world).diagnosis
    assert PANIC in consoles.text(world.context, FAILOVER, world.site)


def test_a_guest_that_starts_anew_after_a_panic_is_waited_for(world: World) -> None:
    come_up(world, forward={"1022": 22})
    world.change(state="working")
    write_console(world, PANIC)
    world.site.answers = lambda _failover, _port: world.time.passed > 12  # type: ignore[method-assign]
    world.time.events = [(8, lambda: write_console(world, PANIC + "GRUB loading.\n"))]
    assert await_answer(world.context, FAILOVER)["answered"]


def test_the_screen_is_kept_until_the_record_goes(world: World) -> None:
    come_up(world)
    picture = png_of(b"P6\n2 1\n255\n" + bytes(6))
    world.site.screen = lambda _failover: picture  # type: ignore[attr-defined]
    verify(world.context, FAILOVER)
    world.site.screen = lambda _failover: b"a later one"  # type: ignore[attr-defined]
    remove(world.context, FAILOVER)
    assert screen_of(world.context, FAILOVER) == picture


def test_a_picture_is_read_by_its_own_rules() -> None:
    pixels = bytes(range(18))
    made = png_of(b"P6\n3 2\n255\n" + pixels + b"more")
    assert made.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", made[16:24]) == (3, 2)
    (length,) = struct.unpack(">I", made[33:37])
    assert zlib.decompress(made[41 : 41 + length]) == b"\0" + pixels[:9] + b"\0" + pixels[9:]
    for wrong in (
        b"",
        b"P6\n3 2\n255\n" + pixels[:-1],
        b"P6\n99999 99999\n255\n",
        b"P5\n3 2\n255\n",
        b"P6\n0 2\n255\n",
    ):
        with pytest.raises(ValueError, match="image"):
            png_of(wrong)


def test_of_a_png_picture_only_what_shows_is_kept() -> None:
    made = png_of(b"P6\n3 2\n255\n" + bytes(18))
    text = b"tEXtmine"
    more = struct.pack(">I", 4) + text + struct.pack(">I", zlib.crc32(text))
    assert picture_of(made[:33] + more + made[33:] + b"behind") == made
    for wrong in (made[:-1], made[:40] + b"x" + made[41:], made[:8]):
        with pytest.raises(ValueError, match="image"):
            picture_of(wrong)


def test_evidence_is_added_to(world: World) -> None:
    with world.catalog.writing() as tx:
        row = failovers.get(tx, FAILOVER)
        add_evidence(row, rpo_seconds=2.0)
        add_evidence(row, rto_seconds=9.0)
    assert (evidence(world).rpo_seconds, evidence(world).rto_seconds) == (2.0, 9.0)


def test_a_machine_that_is_paused_for_its_disk_while_it_comes_up_goes_on(world: World) -> None:
    come_up(world, forward={"1022": 22})
    world.change(state="working")
    world.site.condition = Condition.PAUSED
    world.site.answers = lambda _failover, _port: world.site.condition is Condition.RUNNING  # type: ignore[method-assign]

    def vault_is_back() -> None:
        assert world.site.resumed >= 3, "each look tries"
        world.site.condition = Condition.RUNNING

    world.time.events = [(4, vault_is_back)]
    assert await_answer(world.context, FAILOVER)["answered"] == NOW + 4 * SECOND


def test_a_test_network_is_for_tests(world: World) -> None:
    def ask(kind: str) -> None:
        request = FailoverRequest.model_validate({"kind": kind, "site": "files", "network": "lab"})
        with world.catalog.writing() as tx:
            sites.add(tx, SiteRow(id="files", kind="qemu"))
            ask_for(tx, MACHINE, request, failover=OTHER, job="", now=NOW, actor="somebody")

    with pytest.raises(Malformed, match="Only test failovers"):
        ask("failover")
    ask("test")
    assert target_of(world.context, OTHER, "1:1").bubble == "lab"


def test_ports_that_only_checks_asked_for_are_waited_for_as_long_as_checks_are(world: World) -> None:
    come_up(world, {**WEB, "within": 9}, SSH, forward={"1022": 22, "1080": 80})
    world.change(state="working", request={"kind": "failover", "forward": {}})
    assert "22" in str(await_answer(world.context, FAILOVER)["checked"]), "any of them"
    come_up(world, {**WEB, "within": 9}, forward={"1080": 80})
    world.change(state="working", request={"kind": "failover", "forward": {}})
    assert await_answer(world.context, FAILOVER)["answered"] == 0
    assert world.time.passed == 10
