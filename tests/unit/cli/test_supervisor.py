"""The supervisor over real processes that are no servers: starts, starts again, gives up, leaves nothing behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.waiting import until

from farshore.cli import supervisor
from farshore.cli.supervisor import Installation
from farshore.model.errors import TryLater, WrongState

STEADY = "import time; time.sleep(600)"
FAILING = "raise SystemExit(7)"


@dataclass(frozen=True)
class Toys(Installation):
    """An installation whose servers are one-line programs."""

    programs: tuple[str, ...] = (STEADY, STEADY)

    def commands(self) -> dict[str, list[str]]:
        return {f"server {number}": [sys.executable, "-c", text] for number, text in enumerate(self.programs)}


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Toys]:
    """Two steady programs under a supervisor in a process of its own."""
    toys = Toys(tmp_path)
    script = (
        "import sys; from pathlib import Path; from farshore.cli import supervisor;"
        "from tests.unit.cli.test_supervisor import Toys; supervisor.run(Toys(Path(sys.argv[1])), lambda: None)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], start_new_session=True)
    until(lambda: len([pid for pid in toys.state().values() if pid]) == 4)
    yield toys
    supervisor.stop(toys)
    process.wait(120)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_server_that_dies_is_started_again(supervised: Toys) -> None:
    first = supervised.state()["server 0"]
    os.kill(first, signal.SIGKILL)
    until(lambda: supervised.state()["server 0"] not in (0, first))
    assert lives(supervised.state()["server 1"])


def test_stop_ends_everything(supervised: Toys) -> None:
    pids = [pid for name, pid in supervised.state().items() if name != "started"]
    assert supervisor.is_running(supervised)
    assert supervisor.stop(supervised)
    assert not any(lives(pid) for pid in pids)
    assert not supervisor.stop(supervised)


def test_stop_waits_for_one_that_let_go_of_the_lock_before_it_ended(tmp_path: Path) -> None:
    """As any process does: the kernel closes its files some time before it is gone."""
    slow = (
        "import os, signal, time; signal.signal(signal.SIGTERM, lambda *_: (os.closerange(3, 99), time.sleep(1),"
        f" os._exit(0))); open({str(tmp_path / 'ready')!r}, 'w'); time.sleep(600)"
    )
    toys = Toys(tmp_path, programs=(slow,))
    toys.run.mkdir()
    with (toys.run / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        left = subprocess.Popen([sys.executable, "-c", slow], pass_fds=(lock.fileno(),))
    until((tmp_path / "ready").exists)
    (toys.run / "state.json").write_text(json.dumps({"supervisor": 0, "server 0": left.pid}))
    assert supervisor.stop(toys)
    assert not lives(left.pid)
    left.wait()


def test_what_a_killed_supervisor_left_is_ended_before_a_new_start(supervised: Toys) -> None:
    state = supervised.state()
    with pytest.raises(WrongState, match="is running"):
        supervisor.check_not_running(supervised)
    os.kill(state["supervisor"], signal.SIGKILL)
    until(lambda: not lives(state["supervisor"]))
    assert supervisor.is_running(supervised), "its servers still hold the lock"
    supervisor.check_not_running(supervised)
    assert not lives(state["server 0"])
    assert not lives(state["server 1"])


@pytest.mark.parametrize("role", ["supervisor", "server 0"])
def test_a_process_that_got_an_old_number_is_left_alone(role: str, supervised: Toys) -> None:
    """Even one that looks like ours: it does not hold the lock."""
    state = supervised.state()
    os.kill(state["supervisor"], signal.SIGKILL)
    until(lambda: not lives(state["supervisor"]))
    os.kill(state["server 0"], signal.SIGKILL)
    stranger = subprocess.Popen([sys.executable, "-c", STEADY, "-m", "farshore.configuration_server"])
    try:
        (supervised.run / "state.json").write_text(json.dumps(state | {role: stranger.pid}))
        supervisor.check_not_running(supervised)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert not lives(state["server 1"])
    assert not supervisor.is_running(supervised)


def test_a_server_that_never_stays_up_ends_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 0.01)
    toys = Toys(tmp_path, programs=(STEADY, FAILING))
    started = threading.Event()
    with pytest.raises(TryLater, match="status 7"):
        supervisor.run(toys, started.set)
    assert started.wait(60)
    assert not lives(toys.state()["server 0"])
    assert not supervisor.is_running(toys)


def test_a_master_target_that_never_stays_up_ends_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 0.01)
    tries = tmp_path / "tries"
    counted = f"open({str(tries)!r}, 'a').write('.'); {FAILING}"

    class WithMasterTarget(Toys):
        def commands(self) -> dict[str, list[str]]:
            return {**super().commands(), supervisor.MASTER_TARGET: [sys.executable, "-c", counted, "farshore"]}

    toys = WithMasterTarget(tmp_path, programs=(STEADY, FAILING))
    with pytest.raises(TryLater, match="server 1 failed"):
        supervisor.run(toys, lambda: None)
    assert tries.stat().st_size >= 1, "the control: what is needed still ends the rest"
    alone = WithMasterTarget(tmp_path, programs=(STEADY,))
    tries.unlink()

    def stop_after_many() -> None:
        until(lambda: tries.exists() and tries.stat().st_size > 2 * supervisor.MOST_FAILURES, "many starts")
        os.kill(os.getpid(), signal.SIGTERM)

    supervisor.run(alone, stop_after_many)
