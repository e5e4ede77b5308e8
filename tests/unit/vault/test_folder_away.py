"""A vault's folder that goes away (unmounted, renamed) is unreachable: nothing in it is missing, nothing is written."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from tests.unit.vault.synthetic import Machine, new_vault, read

from farshore.configuration_server.vault_access import ensure_vault
from farshore.export import hydration
from farshore.export.hydration import Hydration
from farshore.export.overlay import OverlayDevice
from farshore.export.patience import PatientSource
from farshore.formats import vault_names
from farshore.model.errors import NotFound, Unreachable, Unsupported
from farshore.model.identifiers import DiskNumber
from farshore.vault import Vault, open_store
from farshore.vault.stores.folder import FolderStore

READS = {
    "get": lambda store: store.get("keys/chunks"),
    "get, not there": lambda store: store.get("x/y"),
    "range": lambda store: store.get_range("keys/chunks", 0, 1),
    "ranges": lambda store: store.get_ranges("keys/chunks", [0], [1]),
    "list": lambda store: list(store.list("keys/")),
    "list, not there": lambda store: list(store.list("x/")),
    "folders": lambda store: store.folders("machines/"),
}
WRITES = {
    "put": lambda store: store.put("x/one", [b"1"]),
    "put_if_absent": lambda store: store.put_if_absent("x/two", [b"2"]),
    "delete": lambda store: store.delete("keys/chunks"),
    "delete, not there": lambda store: store.delete("x/y"),
}


class Away:
    """The folder of a vault: ``go`` renames it away, and leaves what a mount point leaves; ``come`` brings it back."""

    def __init__(self, folder: Path, mount_point: bool = False) -> None:
        self.folder, self.elsewhere, self._mount_point = folder, folder.with_name("elsewhere"), mount_point

    def go(self) -> None:
        self.folder.rename(self.elsewhere)
        if self._mount_point:
            self.folder.mkdir()

    def come(self) -> None:
        if self._mount_point:
            assert list(self.folder.rglob("*")) == []
            self.folder.rmdir()
        assert not self.folder.exists()
        self.elsewhere.rename(self.folder)


@pytest.fixture
def machine(tmp_path):
    made = Machine(new_vault(tmp_path)[0], 1, {0: 3 << 20})
    made.fill()
    made.begin_epoch(None)
    made.journal(segments=2, batches=1, count=4)
    return made


@pytest.fixture(params=["renamed", "unmounted"])
def away(request, machine, tmp_path):
    return Away(tmp_path / "vault", request.param == "unmounted")


@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_every_call_says_that_the_folder_is_away_and_works_when_it_is_back(machine, away, name):
    store = machine.vault.store
    away.go()
    with pytest.raises(Unreachable, match="is not in its folder"):
        {**READS, **WRITES}[name](store)
    away.come()
    if name == "get, not there":
        with pytest.raises(NotFound):
            READS[name](store)
    else:
        {**READS, **WRITES}[name](store)


def test_a_folder_that_never_held_a_vault_is_just_empty(tmp_path):
    store = FolderStore(tmp_path / "new")
    with pytest.raises(NotFound):
        store.get(vault_names.DESCRIPTOR)
    assert list(store.list("")) == []
    store.put("x", [b"1"])


def test_what_is_written_while_it_goes_is_not_taken_for_stored(machine, away, monkeypatch):
    store, ensure = machine.vault.store, FolderStore._ensure

    def goes(self, folder):
        monkeypatch.setattr(FolderStore, "_ensure", ensure)
        away.go()
        ensure(self, folder)

    monkeypatch.setattr(FolderStore, "_ensure", goes)
    with pytest.raises(Unreachable, match="is not in its folder"):
        store.put("segments/one", [b"1"])
    assert not (away.elsewhere / "segments").exists()


def test_the_vault_on_another_disk_is_the_vault_and_another_vault_is_not(machine, tmp_path):
    folder, other = tmp_path / "vault", tmp_path / "other"
    (tmp_path / "second").mkdir()
    new_vault(tmp_path / "second")
    shutil.copytree(folder, other)
    folder.rename(tmp_path / "elsewhere")
    (tmp_path / "second" / "vault").rename(folder)
    with pytest.raises(Unreachable, match="is not in its folder"):
        machine.vault.store.put("x", [b"1"])
    shutil.rmtree(folder)
    other.rename(folder)
    machine.vault.store.put("x", [b"1"])
    assert (folder / "x").read_bytes() == b"1"


def test_reads_of_an_export_wait_for_it(machine, away):
    whole = bytes(machine.disks[0])
    waits = []

    def sleep(_seconds):
        waits.append(1)
        if len(waits) == 3:
            away.come()

    source = machine.in_vault.disks.open(machine.in_vault.points.latest().position, DiskNumber(0))
    patient = PatientSource(source, sleep=sleep, clock=lambda: 0.0)
    away.go()
    assert read(patient, 0, 1 << 20) == whole[: 1 << 20]
    assert len(waits) == 3
    patient.close()


def test_hydration_goes_on_when_it_is_back(machine, away, tmp_path, monkeypatch):
    overlay = OverlayDevice(
        machine.in_vault.disks.open(machine.in_vault.points.latest().position, DiskNumber(0)),
        tmp_path / "overlay",
        "a point",
    )
    hydrating = Hydration({"0": overlay}, rate=0)
    wait, waits = hydrating._stop.wait, []

    def watched(seconds):
        if seconds >= hydration._RETRY_SECONDS:
            waits.append(1)
            if len(waits) == 2:
                away.come()
            return False
        return wait(seconds)

    monkeypatch.setattr(hydrating._stop, "wait", watched)
    away.go()
    hydrating._run()
    assert (hydrating.done, len(waits)) == (3 << 20, 2)
    shutil.rmtree(tmp_path / "vault")
    assert read(overlay, 0, 3 << 20) == bytes(machine.disks[0])
    overlay.close()


def test_hydration_leaves_out_what_is_damaged_and_comes_back_to_it(machine, tmp_path, monkeypatch):
    overlay = OverlayDevice(
        machine.in_vault.disks.open(machine.in_vault.points.latest().position, DiskNumber(0)),
        tmp_path / "overlay",
        "a point",
    )
    hydrating = Hydration({"0": overlay}, rate=0)
    victim = max((path for path in (tmp_path / "vault" / "chunks").rglob("*") if path.is_file()), key=os.path.getsize)
    whole, told = victim.read_bytes(), []
    victim.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    wait = hydrating._stop.wait

    def watched(seconds):
        if seconds < hydration._DAMAGED_SECONDS:
            return wait(seconds)
        told.append(hydrating.done)
        victim.write_bytes(whole)
        return False

    monkeypatch.setattr(hydrating._stop, "wait", watched)
    hydrating._run()
    assert len(told) == 1
    assert told[0] < hydrating.done == 3 << 20
    overlay.close()


def test_no_new_vault_is_made_where_one_is_not_mounted(tmp_path):
    url, key, record = f"file://{tmp_path}/vault", tmp_path / "owner.key", tmp_path / "vault.json"
    made = ensure_vault(url, key, record)
    away = Away(tmp_path / "vault", mount_point=True)
    away.go()
    with pytest.raises(Unreachable, match=f"{made.vault_id} is not in"):
        ensure_vault(url, key, record)
    assert ensure_vault(f"file://{tmp_path}/new", key, tmp_path / "other.json").vault_id != made.vault_id
    away.come()
    assert ensure_vault(url, key, record).vault_id == made.vault_id


def test_a_file_system_without_hard_links_is_named(tmp_path, monkeypatch):
    def refuse(*_arguments):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(Unsupported, match="hard links"):
        open_store(f"file://{tmp_path}/vault").put_if_absent("x", [b"1"])


def test_a_vault_is_opened_where_it_is(machine, tmp_path):
    """What is seen is seen anew by each store."""
    found = Vault.open_with_vault_key(open_store(f"file://{tmp_path}/vault"), bytes.fromhex(machine.vault.key_hex))
    assert found.machines()


def test_by_another_way_to_the_home_no_new_vault_is_made_in_its_place(tmp_path: Path) -> None:
    home, moved, elsewhere = tmp_path / "home", tmp_path / "moved", tmp_path / "elsewhere"
    home.mkdir()

    def opened(folder: Path, url: str = "") -> str:
        return ensure_vault(url or f"file://{folder}/vault", folder / "key", folder / "record").vault_id

    made = opened(home)
    home.rename(moved)
    (moved / "vault").rename(elsewhere)
    with pytest.raises(Unreachable):
        opened(moved)
    assert not (moved / "vault").exists()
    elsewhere.rename(moved / "vault")
    assert opened(moved) == made
    assert opened(moved, f"file://{tmp_path}/another") != made, "a place that was chosen anew is no move"
