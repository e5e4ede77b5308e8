"""Clocks are set while a real installation protects a disk: the machine's, forth and back, then the servers'.

Each program sees a wall clock of its own (tests/crash/fire/offset.c); monotonic clocks are true, as in life.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.fire.processes import Clock
from tests.crash.mobility.rig import Rig, churn, same
from tests.loopdisks import loop_disk, require_data_mode
from tests.waiting import until

from farshore.api_types.events import Alert, Event
from farshore.client.credentials import Credentials
from farshore.client.management import Management
from farshore.client.transport import Transport
from farshore.model.position import Position
from farshore.vault import AtTime

pytestmark = pytest.mark.root
MIB = 1 << 20
SECOND = 1_000_000_000
TWO_HOURS, TWO_DAYS = 7200, 2 * 86400


class Installation:
    """The rig, and the clocks of its programs."""

    def __init__(self, rig: Rig, agent: Clock, servers: Clock) -> None:
        self.rig, self.agent, self.servers = rig, agent, servers
        self._number = 0
        self.between: list[tuple[Position, int, Position]] = []
        """A point, a true time after it, and the next point, with a write between the last two."""

    def set_servers(self, seconds: int) -> None:
        self.servers.set(seconds)
        self.rig.servers_ahead = seconds * SECOND

    def write_between(self) -> None:
        """Two points with a write between them, and the true time just before that."""
        self._number += 1
        older = self.rig.point(f"older-{self._number}")
        moment = time.time_ns()
        churn(self.rig.disk.folder, 1, f"churn-{self._number}")
        os.sync()
        self.between.append((older, moment, self.rig.point(f"younger-{self._number}")))

    def check_found(self) -> None:
        """Each moment is found between its two points, and each listed time is the listed point's."""
        vault = self.rig.vault()
        for older, moment, younger in self.between:
            found = vault.points.resolve(AtTime(moment)).position
            assert older <= found < younger, f"{found} for a time between {older} and {younger}"
        for point in vault.points.listed():
            assert vault.points.resolve(AtTime(point.time)).position == point.position

    def rpo(self) -> float:
        found = self.rig.shown().rpo_seconds
        assert found is not None
        return found

    def alerts(self) -> set[str]:
        with contextlib.closing(self._api()) as api:
            return {one.kind for one in api.transport.get_list("/v1/alerts", Alert)}

    def events(self, kind: str) -> int:
        with contextlib.closing(self._api()) as api:
            return len(api.transport.get_list("/v1/events", Event, kind=kind))

    def _api(self) -> Management:
        return Management(Transport.from_credentials(Credentials.load(self.rig.home / "admin.json")))


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    require_data_mode()
    agent, servers = Clock(tmp_path / "agent.clock"), Clock(tmp_path / "servers.clock")
    with loop_disk(64 * MIB, "ext4") as disk:
        rig = Rig(tmp_path, disk, spill_mib=8, **servers.environment())
        rig.agent_environment = agent.environment()
        try:
            rig.up()
            rig.enrol()
            rig.start_agent()
            rig.wait_consistent()
            yield Installation(rig, agent, servers)
        finally:
            rig.close()


@pytest.mark.soak  # half a minute of processor time; the rules themselves are held by unit tests
@pytest.mark.timeout(1800)
def test_points_are_found_and_the_rpo_is_true_whatever_clock_is_set(installation: Installation) -> None:
    rig = installation.rig
    installation.write_between()
    epoch = rig.shown().epoch

    installation.agent.set(TWO_HOURS)
    until(lambda: {"clock-stepped", "clock-differs"} <= installation.alerts(), "the alerts of a clock that is ahead")
    installation.write_between()
    installation.check_found()
    rig.signal_agent(signal.SIGSTOP)
    until(lambda: installation.rpo() > 8, "the age of the newest state while nothing arrives")
    rig.signal_agent(signal.SIGCONT)
    until(lambda: installation.rpo() < 8, "the age once something arrives again")

    installation.agent.set(0)
    until(lambda: "clock-differs" not in installation.alerts(), "the end of the alert")
    installation.write_between()
    installation.check_found()
    assert installation.events("machine.clock-stepped") == 2

    installation.set_servers(-TWO_DAYS)
    until(lambda: "server-clock-stepped" in installation.alerts(), "the alert of the server's own clock")
    until(lambda: 0 < installation.rpo() < 8, "the age by a clock that went back")
    rig.down()
    rig.up()  # from before its certificates were made
    churn(rig.disk.folder, 1, "after the start")
    position, disk = rig.frozen_point("by a clock of the past")
    same(rig.replica(position), disk)
    rig.signal_agent(signal.SIGSTOP)
    until(lambda: installation.rpo() > 8, "the age while nothing arrives, by a clock that went back")
    rig.signal_agent(signal.SIGCONT)

    installation.set_servers(0)
    installation.write_between()
    installation.between = installation.between[-1:]  # older ones lie in what the servers' wrong time bases overlap
    installation.check_found()
    assert rig.shown().epoch == epoch, "a clock alone made a new epoch"
