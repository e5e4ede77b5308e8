"""The folders that a vault in a folder makes: those of many machines at once, and none used before it is durable."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.waiting import PATIENCE

from farshore.vault.stores import folder
from farshore.vault.stores.folder import FolderStore

SOON = 0.2
"""Seconds that somebody has who must not come through."""


class Syncing:
    """In the place of sync_folder: the first sync of the folder ``held`` waits until ``go`` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, held: Path) -> None:
        self._sync, self._held = folder.sync_folder, held
        self.begun, self.go = threading.Event(), threading.Event()
        monkeypatch.setattr(folder, "sync_folder", self)

    def __call__(self, path: Path) -> None:
        if path == self._held and not self.begun.is_set():
            self.begun.set()
            assert self.go.wait(PATIENCE)
        self._sync(path)


def put(store: FolderStore, name: str) -> threading.Thread:
    thread = threading.Thread(target=store.put, args=(name, [b"x"]))
    thread.start()
    return thread


def test_one_machine_does_not_wait_for_the_folders_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncing = Syncing(monkeypatch, tmp_path / "one")
    store = FolderStore(tmp_path)
    first = put(store, "one/segments/a")
    assert syncing.begun.wait(PATIENCE)
    second = put(store, "two/segments/a")
    second.join(PATIENCE)
    assert not second.is_alive()
    syncing.go.set()
    first.join()
    assert store.get("one/segments/a") == store.get("two/segments/a") == b"x"


@pytest.mark.parametrize("name", ["one/segments/b", "one/segments/more/b"])
def test_nothing_is_put_below_a_folder_that_is_not_durable_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    syncing = Syncing(monkeypatch, tmp_path / "one")
    store = FolderStore(tmp_path)
    first = put(store, "one/segments/a")
    assert syncing.begun.wait(PATIENCE)
    assert (tmp_path / "one" / "segments").is_dir(), "it is there, and a power cut may take it away"
    second = put(store, name)
    second.join(SOON)
    assert second.is_alive()
    syncing.go.set()
    first.join()
    second.join()
    assert store.get(name) == b"x"
