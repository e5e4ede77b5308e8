"""Points of a vault over NBD, bit for bit, by the process that a failover starts; and the errors of vaults."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.scenarios.export.nbd_client import NbdClient
from tests.unit.vault.synthetic import Machine

from farshore.export.launch import ExportLauncher
from farshore.export.settings import ExportedDisk, ExportSettings, VaultDisk
from farshore.model.errors import NotFound, WrongKey
from farshore.vault import OwnerKey, Vault, open_store

SIZES = {0: 3 << 20, 1: (1 << 20) + 512 * 3}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("vault")
    vault = Vault.create(open_store(f"file://{folder}/vault"), OwnerKey.generate_file(folder / "owner.key"))
    made = Machine(vault, seed=5, sizes=SIZES)
    made.fill()
    made.begin_epoch(None)
    made.journal(segments=4, batches=2, count=30)
    return made


def settings(folder: Path, machine: Machine, position: object, key: str | None = None) -> ExportSettings:
    disks = tuple(
        ExportedDisk(
            name=str(disk),
            source=VaultDisk(machine=str(machine.id), position=str(position), disk=disk),
            overlay=folder / f"disk-{disk}",
        )
        for disk in SIZES
    )
    return ExportSettings(
        socket=folder / "nbd.sock",
        disks=disks,
        vault_url=machine.vault.store.url,
        vault_key=SecretStr(machine.vault.key_hex if key is None else key),
    )


def test_every_point_is_served_as_it_was(tmp_path: Path, machine: Machine) -> None:
    launcher = ExportLauncher()
    positions = list(machine.states)
    for number, position in enumerate((positions[0], positions[3], positions[-1])):
        folder = tmp_path / str(number)
        launcher.start(settings(folder, machine, position))
        try:
            for disk, expected in machine.states[position].items():
                client = NbdClient(folder / "nbd.sock", str(disk))
                assert client.read(0, len(expected)) == expected
                assert client.call(1, 4096, 5000, data=b"w" * 5000)[0].error == 0
                assert client.read(4000, 6000) == expected[4000:4096] + b"w" * 5000 + expected[9096:10000]
                client.close()
        finally:
            launcher.stop(folder)


def test_a_hydrated_overlay_needs_no_vault(tmp_path: Path, machine: Machine) -> None:
    launcher = ExportLauncher()
    position = list(machine.states)[-1]
    launcher.hydrate(tmp_path)
    launcher.start(settings(tmp_path, machine, position))
    try:
        for _ in range(600):
            state = launcher.state(tmp_path)
            assert state is not None
            if state.hydrated == state.total:
                break
            time.sleep(0.05)
        assert state.hydrated == state.total == sum(SIZES.values())
    finally:
        launcher.stop(tmp_path)
    for disk, expected in machine.states[position].items():
        assert (tmp_path / f"disk-{disk}" / "data").read_bytes() == expected
    # From now on it starts without the vault, and without a key.
    lost = settings(tmp_path, machine, position).model_copy(update={"vault_url": "file:///nowhere", "vault_key": ""})
    launcher.start(ExportSettings.model_validate({**lost.model_dump(), "vault_key": SecretStr("")}))
    try:
        for disk, expected in machine.states[position].items():
            client = NbdClient(tmp_path / "nbd.sock", str(disk))
            assert client.read(0, len(expected)) == expected
            client.close()
    finally:
        launcher.stop(tmp_path)


def test_a_wrong_key_and_a_point_that_is_not_there(tmp_path: Path, machine: Machine) -> None:
    launcher = ExportLauncher()
    with pytest.raises(WrongKey):
        launcher.start(settings(tmp_path / "a", machine, "1:0", key=secrets.token_hex(32)))
    with pytest.raises(NotFound):
        launcher.start(settings(tmp_path / "b", machine, "9:1"))
    assert not launcher.serving(tmp_path / "a")
    assert machine.vault.key_hex not in (tmp_path / "a" / "export.log").read_text()
