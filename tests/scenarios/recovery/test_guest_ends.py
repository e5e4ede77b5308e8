"""How a QEMU site's machine ends: by its guest's will, by ours, or by neither; real QEMUs, guests in a boot sector."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.contract.guests import REBOOTING, SUSPENDING
from tests.contract.places import QemuPlace, qemu_place
from tests.waiting import until

from farshore.sites.port import Condition, FailoverId
from farshore.sites.qemu import launching
from farshore.sites.qemu import site as site_module
from farshore.sites.qemu.command import RunFiles
from farshore.sites.qemu.monitor import ask
from farshore.sites.qemu.site import QemuSite

pytestmark = pytest.mark.root
KNOWN_TO_RUN = {"running", "debug", "inmigrate", "finish-migrate", "restore-vm", "save-vm", "watchdog", "colo"}
"""Run states that need something which no command of ours asks for; they pass by themselves or need a person."""


def started(place: QemuPlace) -> tuple[QemuSite, FailoverId]:
    site = QemuSite(place.folder, accelerator="tcg")
    order = place.order()
    site.create(order)
    site.start(order.failover)
    return site, order.failover


def test_a_reboot_reboots() -> None:
    with qemu_place(REBOOTING) as place:
        site, failover = started(place)
        (process,) = place.processes(failover)
        place.wait_for_guest(failover, times=3)
        assert site.status(failover).condition is Condition.RUNNING
        assert place.processes(failover) == [process]
        site.stop(failover, grace=0.1)  # it does not listen
        assert site.status(failover).condition is Condition.STOPPED


def test_a_stop_with_grace_lets_the_guest_end() -> None:
    with qemu_place() as place:
        site, failover = started(place)
        place.wait_for_guest(failover)
        site.stop(failover, grace=300)
        assert site.console(failover).read_text().endswith("up\ndown\n")
        assert (site.status(failover).condition, place.living(failover)) == (Condition.STOPPED, 0)


@pytest.mark.parametrize("by_stop", [True, False])
def test_what_an_earlier_release_started_ends_with_its_guest(monkeypatch: pytest.MonkeyPatch, by_stop: bool) -> None:
    made = launching.qemu_command

    def without(*arguments: object) -> list[str]:
        return [word for word in made(*arguments) if word != "-no-shutdown"]  # type: ignore[arg-type]

    monkeypatch.setattr(launching, "qemu_command", without)
    with qemu_place() as place:
        site, failover = started(place)
        # Its record held the number and no more.
        record = RunFiles(place.folder / failover).pid
        record.write_text(f"{place.processes(failover)[0]}\n")
        place.wait_for_guest(failover)
        assert site.status(failover).condition is Condition.RUNNING
        if by_stop:
            site.stop(failover, grace=300)
        else:
            ask(RunFiles(place.folder / failover).monitor, "system_powerdown")
            until(lambda: not place.living(failover), "the end of QEMU")
        assert site.console(failover).read_text().endswith("down\n")
        assert site.status(failover).condition is Condition.STOPPED


def test_an_end_that_cannot_be_noted_is_seen_as_long_as_qemu_stays() -> None:
    with qemu_place() as place:
        site, failover = started(place)
        place.wait_for_guest(failover)
        place.delete(failover, "qemu.pid")
        place.shut_down(failover)
        for _ in range(2):
            assert site.status(failover).condition is Condition.SHUT_DOWN
        assert place.living(failover) == 1
        assert site.start(failover).condition is Condition.RUNNING
        assert place.living(failover) == 1


def test_a_suspended_guest_is_woken() -> None:
    with qemu_place(SUSPENDING) as place:
        site, failover = started(place)
        until(lambda: site.status(failover).condition is Condition.PAUSED, "its sleep")
        assert site.status(failover).detail == "suspended"
        site.resume(failover)
        assert site.status(failover).condition is Condition.RUNNING


def test_a_qemu_that_cannot_go_on_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    # QEMU's own internal-error needs a broken KVM; what is done about it does not.
    monkeypatch.setitem(site_module._CONDITIONS, "suspended", Condition.STOPPED)
    with qemu_place(SUSPENDING) as place:
        site, failover = started(place)
        until(lambda: site.status(failover).condition is Condition.STOPPED, "its end")
        assert site.status(failover).detail == "suspended"
        (process,) = place.processes(failover)
        site.start(failover)
        assert len(place.processes(failover)) == 1
        assert place.processes(failover) != [process]
        until(lambda: site.status(failover).condition is Condition.STOPPED, "its end")
        site.create(replace(site.order(failover), name="another"))
        assert place.living(failover) == 0


def test_every_state_of_this_qemu_has_a_condition() -> None:
    with qemu_place() as place:
        _, failover = started(place)
        kinds = ask(RunFiles(place.folder / failover).monitor, "query-qmp-schema")
    commands = {kind["name"]: kind for kind in kinds}
    (status,) = (one for one in commands[commands["query-status"]["ret-type"]]["members"] if one["name"] == "status")
    states = set(commands[status["type"]]["values"])
    assert states - KNOWN_TO_RUN == set(site_module._CONDITIONS)
