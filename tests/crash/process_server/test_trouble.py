"""A full spool disk, a store that does not work, a configuration server that is away: nothing is lost, all goes on."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Callable

import pytest
from tests.crash.process_server.rig import Rig, description
from tests.crash.process_server.simulated_agent import SimulatedAgent

from farshore.api_types.machines import EpochKind
from farshore.model.errors import Busy, NoSpace, Unreachable
from farshore.model.identifiers import MachineId, new_id

SIZE = 64 << 20


def _agent(rig: Rig, seed: int = 1) -> SimulatedAgent:
    machine = MachineId(new_id())
    rig.control.grant(machine, 1, EpochKind.INITIAL, description(SIZE))
    return SimulatedAgent(machine, rig.plane(machine, 1), 1, SIZE, seed, rig.vault.chunk_hash_key)


def _send(agent: SimulatedAgent, batches: int) -> None:
    for _ in range(batches):
        agent.send(agent.batch(100))


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _all_stored(rig: Rig, agent: SimulatedAgent) -> bool:
    return rig.vault.machine(agent.machine).timeline().last(agent.epoch) == agent.next - 1


@pytest.mark.root
def test_a_full_spool_disk_acknowledges_nothing_and_heals(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    state = tmp_path / "rig" / "state"
    state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", state], check=True)
    try:
        with Rig(tmp_path / "rig", seal_every=0.1, spool_file_bytes=1 << 20) as rig:
            rig.start()
            agent = _agent(rig)
            agent.send(agent.batch(100))
            filler = state / "filler"
            with pytest.raises(OSError, match="No space"), filler.open("wb") as file:
                file.write(bytes(16 << 20))
            with pytest.raises(NoSpace):
                _send(agent, batches=8)
            acknowledged = agent.acknowledged_end()
            assert agent.plane.status().next_journal == acknowledged
            filler.unlink()
            agent.deliver()
            _until(lambda: _all_stored(rig, agent), "the vault does not get what was sent afterwards")
            rig.stop()
    finally:
        subprocess.run(["umount", state], check=True)


def test_a_store_that_fails_fills_the_spool_then_agents_wait_then_all_goes_on(tmp_path: Path) -> None:
    with Rig(tmp_path, seal_every=0.1, spool_limit=6 << 20, spool_file_bytes=1 << 20) as rig:
        rig.start()
        agent = _agent(rig)
        agent.send(agent.batch(10))
        _until(lambda: _all_stored(rig, agent), "the vault does not get the first batch")
        machines = tmp_path / "vault" / "machines"
        machines.rename(tmp_path / "away")
        machines.write_text("a file where a folder should be")
        with pytest.raises(Busy) as caught:
            _send(agent, batches=20)
        assert caught.value.after
        acknowledged = agent.acknowledged_end()
        assert acknowledged > 1000, "the spool should have taken several MiB"
        _until(lambda: any(report.store_trouble for report in rig.control.reports), "the trouble is not reported")
        machines.unlink()
        (tmp_path / "away").rename(machines)
        agent.deliver()
        _until(lambda: _all_stored(rig, agent), "the vault does not get what had waited")
        _until(lambda: not rig.control.reports[-1].store_trouble, "the end of the trouble is not reported")
        rig.stop()


def test_what_the_spool_holds_survives_a_restart_while_the_store_fails(tmp_path: Path) -> None:
    with Rig(tmp_path, seal_every=0.1) as rig:
        rig.start()
        agent = _agent(rig)
        agent.send(agent.batch(10))
        _until(lambda: _all_stored(rig, agent), "the vault does not get the first batch")
        machines = tmp_path / "vault" / "machines" / agent.machine / "segments"
        machines.rename(tmp_path / "away")
        machines.write_text("a file where a folder should be")
        agent.send(agent.batch(100))
        rig.kill()
        machines.unlink()
        (tmp_path / "away").rename(machines)
        rig.start()
        _until(lambda: _all_stored(rig, agent), "the vault does not get what was acknowledged")
        rig.stop()


def test_streams_go_on_while_the_configuration_server_is_away(tmp_path: Path) -> None:
    with Rig(tmp_path, seal_every=0.1) as rig:
        rig.start()
        agent = _agent(rig)
        agent.send(agent.batch(10))
        unknown = _agent(rig)
        rig.control_listener.stop()
        agent.send(agent.batch(10))
        with pytest.raises(Unreachable):
            unknown.plane.send(unknown.batch(1))
        _until(lambda: _all_stored(rig, agent), "the vault does not get the second batch")
        rig.kill()
