"""A full spool disk, a store that does not work, a configuration server that is away: nothing is lost, all goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Iterator

import pytest
from tests.crash.process_server.rig import Rig
from tests.loopdisks import unmount
from tests.unit.process_server.simulated_agent import SimulatedAgent, description
from tests.waiting import until

from farshore.api_types.machines import EpochKind
from farshore.formats import vault_names
from farshore.model.errors import Busy, NoSpace, TryLater, Unreachable
from farshore.model.identifiers import MachineId, new_id
from farshore.vault import OwnerKey, Vault, open_store

SIZE = 64 << 20


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A real file system of 24 MiB on a loop device."""
    folder.mkdir(parents=True)
    image = folder.parent / f"{folder.name}.image"
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    subprocess.run(["rmdir", folder / "lost+found"], check=True)
    try:
        yield
    finally:
        unmount(Path(folder))


def fill(folder: Path) -> Path:
    """Take all the room that there is."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    assert shutil.disk_usage(folder).free < 1 << 19
    return filler


def _agent(rig: Rig, seed: int = 1) -> SimulatedAgent:
    machine = MachineId(new_id())
    rig.control.grant(machine, 1, EpochKind.INITIAL, description(SIZE))
    return SimulatedAgent(machine, rig.plane(machine, 1), 1, SIZE, seed, rig.vault.chunk_hash_key)


def _send(agent: SimulatedAgent, batches: int) -> None:
    for _ in range(batches):
        agent.send(agent.batch(100))


def _all_stored(rig: Rig, agent: SimulatedAgent) -> bool:
    return rig.vault.machine(agent.machine).stored.timeline().last(agent.epoch) == agent.next - 1


@pytest.mark.root
def test_a_full_spool_disk_acknowledges_nothing_and_heals(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    state = tmp_path / "rig" / "state"
    with small_disk(state), Rig(tmp_path / "rig", seal_every=0.1, spool_file_bytes=1 << 20) as rig:
        rig.start()
        agent = _agent(rig)
        agent.send(agent.batch(100))
        filler = fill(state)
        with pytest.raises(NoSpace):
            _send(agent, batches=8)
        acknowledged = agent.acknowledged_end()
        assert agent.plane.status().next_journal == acknowledged
        until(lambda: "spool disk is full" in rig.control.last.spool_trouble, "the trouble is not reported")
        filler.unlink()
        agent.deliver()
        until(lambda: _all_stored(rig, agent), "the vault does not get what was sent afterwards")
        until(lambda: not rig.control.last.spool_trouble, "the end of the trouble is not reported")
        rig.stop()


@pytest.mark.root
def test_a_full_vault_disk_is_waited_out_in_the_spool(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    vault = tmp_path / "rig" / "vault"
    with small_disk(vault), Rig(tmp_path / "rig", seal_every=0.1, spool_file_bytes=1 << 20) as rig:
        rig.start()
        agent = _agent(rig)
        agent.send(agent.batch(10))
        until(lambda: _all_stored(rig, agent), "the vault does not get the first batch")
        filler = fill(vault)
        _send(agent, batches=8)
        until(lambda: "disk is full" in rig.control.last.store_trouble, "the trouble is not reported")
        assert rig.vault.machine(agent.machine).stored.timeline().last(agent.epoch) < agent.acknowledged_end() - 1
        filler.unlink()
        until(lambda: _all_stored(rig, agent), "the vault does not get what had waited")
        until(lambda: not rig.control.last.store_trouble, "the end of the trouble is not reported")
        rig.stop()


def test_a_store_that_fails_fills_the_spool_then_agents_wait_then_all_goes_on(tmp_path: Path) -> None:
    with Rig(tmp_path, seal_every=0.1, spool_limit=6 << 20, spool_file_bytes=1 << 20) as rig:
        rig.start()
        agent = _agent(rig)
        agent.send(agent.batch(10))
        until(lambda: _all_stored(rig, agent), "the vault does not get the first batch")
        machines = tmp_path / "vault" / "machines"
        machines.rename(tmp_path / "away")
        machines.write_text("a file where a folder should be")
        with pytest.raises(Busy) as caught:
            _send(agent, batches=20)
        assert caught.value.after
        acknowledged = agent.acknowledged_end()
        assert acknowledged > 1000, "the spool should have taken several MiB"
        until(lambda: any(report.store_trouble for report in rig.control.reports), "the trouble is not reported")
        machines.unlink()
        (tmp_path / "away").rename(machines)
        agent.deliver()
        until(lambda: _all_stored(rig, agent), "the vault does not get what had waited")
        until(lambda: not rig.control.last.store_trouble, "the end of the trouble is not reported")
        rig.stop()


def test_what_the_spool_holds_survives_a_restart_while_the_store_fails(tmp_path: Path) -> None:
    with Rig(tmp_path, seal_every=0.1) as rig:
        rig.start()
        agent = _agent(rig)
        agent.send(agent.batch(10))
        until(lambda: _all_stored(rig, agent), "the vault does not get the first batch")
        machines = tmp_path / "vault" / "machines" / agent.machine / "segments"
        machines.rename(tmp_path / "away")
        machines.write_text("a file where a folder should be")
        agent.send(agent.batch(100))
        rig.kill()
        machines.unlink()
        (tmp_path / "away").rename(machines)
        rig.start()
        until(lambda: _all_stored(rig, agent), "the vault does not get what was acknowledged")
        rig.stop()


def test_a_server_that_starts_while_the_store_is_away_reports_and_answers(tmp_path: Path) -> None:
    with Rig(tmp_path, seal_every=0.1) as rig:
        rig.start()
        agent = _agent(rig)
        agent.send(agent.batch(10))
        until(lambda: _all_stored(rig, agent), "the vault does not get the first batch")
        machines = tmp_path / "vault" / "machines"
        machines.rename(tmp_path / "away")
        machines.write_text("a file where a folder should be")
        agent.send(agent.batch(100))
        rig.kill()
        before = len(rig.control.reports)
        rig.start()
        until(lambda: any(one.store_trouble for one in rig.control.reports[before:]), "the trouble is not reported")
        assert rig.control.last.spool_bytes > 100 * 4096
        with pytest.raises(TryLater):
            agent.plane.status()
        assert not rig.control.last.stuck, "that the store is away is no machine's trouble"
        machines.unlink()
        (tmp_path / "away").rename(machines)
        until(lambda: _all_stored(rig, agent), "the vault does not get what was acknowledged")
        until(lambda: not rig.control.last.store_trouble, "the end of the trouble is not reported")
        agent.send(agent.batch(10))
        rig.stop()


def test_a_machine_that_cannot_be_opened_holds_up_no_other(tmp_path: Path) -> None:
    with Rig(tmp_path, seal_every=0.1) as rig:
        rig.start()
        broken, well = _agent(rig, 1), _agent(rig, 2)
        for agent in (broken, well):
            agent.send(agent.batch(10))
        until(lambda: _all_stored(rig, broken) and _all_stored(rig, well), "the vault does not get the first batches")
        machines = tmp_path / "vault" / "machines"
        machines.rename(tmp_path / "away")
        machines.write_text("a file where a folder should be")
        for agent in (broken, well):
            agent.send(agent.batch(10))
        rig.kill()
        machines.unlink()
        (tmp_path / "away").rename(machines)
        key = tmp_path / "vault" / vault_names.machine_key(broken.machine)
        good = key.read_bytes()
        key.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        rig.start()
        until(lambda: _all_stored(rig, well), "one bad machine holds up another")
        until(lambda: [one.machine for one in rig.control.last.stuck] == [broken.machine], "it is not told which")
        assert rig.control.last.stuck[0].trouble.rstrip().endswith("."), "with what to do"
        assert not rig.control.last.store_trouble
        key.write_bytes(good)
        fresh = Vault.open(open_store(rig.vault_url), OwnerKey.from_file(tmp_path / "owner.key"))
        until(
            lambda: fresh.machine(broken.machine).stored.timeline().last(broken.epoch) == broken.next - 1,
            "what was acknowledged is not stored once it can be",
        )
        until(lambda: not rig.control.last.stuck, "it is told for ever")
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
        until(lambda: _all_stored(rig, agent), "the vault does not get the second batch")
        rig.kill()
