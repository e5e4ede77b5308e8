"""A resync heals what the vault has lost, through a process server that runs on and knew the chunks before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.crash.process_server.rig import Rig
from tests.unit.process_server.simulated_agent import SimulatedAgent, description
from typer.testing import CliRunner

from farshore.api_types.machines import EpochKind
from farshore.cli.vault import app
from farshore.model.errors import Damaged
from farshore.model.identifiers import CHUNK, DiskNumber, MachineId, new_id
from farshore.model.position import Position
from farshore.vault import OwnerKey, Vault, open_store

SIZE = 24 << 20
A = MachineId(new_id())


def disk_of(rig: Rig, position: Position) -> np.ndarray:
    fresh = Vault.open(open_store(rig.vault_url), OwnerKey.from_file(rig.folder / "owner.key")).machine(A)
    source = fresh.disks.open(position, DiskNumber(0))
    try:
        found = np.empty(SIZE, np.uint8)
        for offset in range(0, SIZE, 8 << 20):
            source.read_into(offset, memoryview(found[offset : offset + (8 << 20)]))
        return found
    finally:
        source.close()


@pytest.mark.parametrize("part", ["chunks", "segments", "bases"])
@pytest.mark.parametrize("gone", [False, True])
def test_damage_is_found_and_a_resync_makes_new_points_good(tmp_path: Path, part: str, gone: bool) -> None:
    with Rig(tmp_path, seal_every=0.1) as rig:
        rig.start()
        rig.control.grant(A, 1, EpochKind.INITIAL, description(SIZE))
        first = SimulatedAgent(A, rig.plane(A, 1), 1, SIZE, 1, rig.vault.chunk_hash_key)
        first.fill(0.7)
        whole = first.copy()
        first.batch(20)
        first.deliver()
        first.complete(first.next - 1)
        old = rig.vault.machine(A).points.latest().position
        truth = first.disk_at(first.next - 1)
        assert (disk_of(rig, old) == truth).all()

        victim = next(path for path in sorted((tmp_path / "vault").rglob("*")) if part in path.parts and path.is_file())
        if gone:
            victim.unlink()
        else:
            data = bytearray(victim.read_bytes())
            data[200 if part == "chunks" else 70] ^= 1
            victim.write_bytes(data)
        vault = ["--vault", rig.vault_url, "--key", str(tmp_path / "owner.key")]
        told = CliRunner().invoke(app, ["verify", *vault, "--data", "--json"], catch_exceptions=False)
        assert told.exit_code == Damaged.exit_status
        assert "0 places" not in CliRunner().invoke(app, ["damage", *vault], catch_exceptions=False).stdout

        rig.control.grant(A, 2, EpochKind.RESYNC, description(SIZE), parent=1)
        second = SimulatedAgent(A, rig.plane(A, 2), 2, SIZE, 2, rig.vault.chunk_hash_key)
        second.base = truth
        sent = second.copy()
        # Only what is damaged is sent again; where the packs are whole and the map is not, they are found by hash.
        assert (0 < sent < whole) if part == "chunks" else sent <= 40
        second.batch(5)
        second.deliver()
        second.complete(second.next - 1)
        newest = rig.vault.machine(A).points.latest().position
        assert newest.epoch == 2
        assert (disk_of(rig, newest) == second.disk_at(second.next - 1)).all()
        if part == "chunks":
            with pytest.raises(Damaged, match="of disk 0"):
                disk_of(rig, old)
        assert sent < SIZE // CHUNK
        rig.stop()
