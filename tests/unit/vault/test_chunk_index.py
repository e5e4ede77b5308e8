"""The index of a domain's chunks: it finds what a dictionary would, after crashes, damage and merges too."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farshore.formats.chunk_pack import LOCATOR
from farshore.vault.chunk_index import ChunkIndex, merging
from farshore.vault.chunk_index.entries import Entries
from farshore.vault.upkeep.salts import SaltSet

KEY = b"the key's own id"
SMALL = 64
"""Entries of the smallest run here."""


class Owner:
    """Knows which packs there are and what is in them, as the vault does; the older of two equal chunks counts."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.packs: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        self.hashes: list[bytes] = []

    def pack(self) -> bytes:
        """A new pack, some of whose chunks others hold too."""
        salt = self.random.randbytes(16)
        count = self.random.randint(1, 40)
        mine = [self.random.randbytes(32) for _ in range(count)]
        if self.hashes:
            mine += self.random.sample(self.hashes, min(3, len(self.hashes)))
        self.hashes += mine
        locators = np.zeros(len(mine), LOCATOR)
        locators["salt"] = np.void(salt)
        for field in ("ordinal", "offset", "stored"):
            locators[field] = [self.random.getrandbits(32) for _ in mine]
        self.packs[salt] = np.frombuffer(b"".join(mine), np.uint8).reshape(-1, 32), locators
        return salt

    def add(self, index: ChunkIndex) -> None:
        salt = self.pack()
        index.add(salt, *self.packs[salt])

    def drop(self, index: ChunkIndex) -> None:
        salt = self.random.choice(list(self.packs))
        del self.packs[salt]
        index.drop(SaltSet.of([salt]))

    def refresh(self, index: ChunkIndex) -> None:
        """What ChunkStore does: the vault's listing decides."""
        held = {salt.tobytes() for salt in index.salts().salts()}
        index.drop(SaltSet.of(held - self.packs.keys()))
        for salt in self.packs.keys() - held:
            index.add(salt, *self.packs[salt])

    def check(self, index: ChunkIndex) -> None:
        """What is found is there, and is that chunk."""
        asked = [*self.hashes, *(self.random.randbytes(32) for _ in range(50))]
        right: dict[bytes, set[bytes]] = {}
        for chunks, locators in self.packs.values():
            for chunk, locator in zip(chunks, locators, strict=True):
                right.setdefault(chunk.tobytes(), set()).add(locator.tobytes())
        found, locators = index.find(np.frombuffer(b"".join(asked), np.uint8).reshape(-1, 32))
        for chunk, held, locator in zip(asked, found, locators, strict=True):
            assert not held or locator.tobytes() in right.get(chunk, ())

    def unique(self, chunk: bytes) -> bool:
        """Whether just one pack ever had it: of two the younger may be forgotten, and the older be gone since."""
        return self.hashes.count(chunk) == 1

    def missing(self, index: ChunkIndex) -> int:
        """Chunks that just one pack ever had, which is there, and that are not found."""
        mine = [c.tobytes() for chunks, _ in self.packs.values() for c in chunks]
        mine = [chunk for chunk in mine if self.unique(chunk)]
        if not mine:
            return 0
        return int(np.count_nonzero(~index.find(np.frombuffer(b"".join(mine), np.uint8).reshape(-1, 32))[0]))


def crash(index: ChunkIndex) -> None:
    """Nothing more is written; the lock is free, as that of a killed process is."""
    index.settle()
    assert index._folder is not None
    index._folder.close()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("on_disk", [True, False])
def test_it_finds_what_a_dictionary_would(tmp_path: Path, seed: int, on_disk: bool) -> None:
    folder = tmp_path / "index" if on_disk else None
    owner, index = Owner(seed), ChunkIndex(folder, KEY, SMALL)
    for step in range(300):
        act = owner.random.random()
        if act < 0.75 or not owner.packs:
            owner.add(index)
        elif act < 0.9:
            owner.drop(index)
        elif on_disk and act < 0.93:
            (crash if act < 0.915 else ChunkIndex.close)(index)
            index = ChunkIndex(folder, KEY, SMALL)
            owner.refresh(index)
        if step % 25 == 0:
            owner.check(index)
            assert owner.missing(index) == 0
    index.settle()
    owner.check(index)
    assert owner.missing(index) == 0
    assert len(index._runs) < 3 * merging.FAN, "runs are merged"
    index.close()


def test_what_was_closed_is_there_again_without_being_added(tmp_path: Path) -> None:
    owner, index = Owner(1), ChunkIndex(tmp_path, KEY, SMALL)
    for _ in range(20):
        owner.add(index)
    index.close()
    again = ChunkIndex(tmp_path, KEY, SMALL)
    assert {salt.tobytes() for salt in again.salts().salts()} == owner.packs.keys()
    assert owner.missing(again) == 0
    again.close()


def test_a_kill_between_any_two_durable_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[Path] = []
    folder = tmp_path / "index"

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def copied_first(*arguments: Any, **named: Any) -> Any:
            states.append(tmp_path / f"killed-{len(states)}")
            shutil.copytree(folder, states[-1])
            return function(*arguments, **named)

        return copied_first

    owner, index = Owner(7), ChunkIndex(folder, KEY, SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", before(os.fsync))
        patched.setattr(Path, "replace", before(Path.replace))
        patched.setattr(Path, "unlink", before(Path.unlink))
        for turn in range(30):
            owner.add(index)
            if turn % 7 == 6:
                owner.drop(index)
            index.settle()
    assert len(states) > 40
    index.close()
    dropped = 4
    most = 0
    for state in states:
        killed = ChunkIndex(state, KEY, SMALL)
        kept = len(killed.salts())
        most = max(most, kept)
        assert kept >= most - dropped, "a kill costs nothing that was written"
        owner.refresh(killed)
        owner.check(killed)
        assert owner.missing(killed) == 0

        killed.settle()
        named = {run.path for run in killed._runs}
        assert all(path in named for path in state.glob("run-*")), "broken-off files are removed"
        killed.close()
    assert most > 15


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_answers_nothing_wrong_and_is_made_again(tmp_path: Path, seed: int) -> None:
    owner, index = Owner(seed), ChunkIndex(tmp_path, KEY, SMALL)
    for _ in range(25):
        owner.add(index)
    index.close()
    path = owner.random.choice([one for one in tmp_path.iterdir() if one.name != "lock"])
    data = bytearray(path.read_bytes())
    place = owner.random.randrange(len(data))
    if seed % 3:
        data[place] ^= 1 << owner.random.randrange(8)
    else:
        del data[place:]
    path.write_bytes(data)
    again = ChunkIndex(tmp_path, KEY, SMALL)
    owner.check(again)  # before the vault was listed: nothing wrong
    owner.refresh(again)
    owner.check(again)  # may meet the damage only now
    owner.refresh(again)
    owner.check(again)
    assert owner.missing(again) == 0
    again.close()
    assert owner.missing(ChunkIndex(tmp_path, KEY, SMALL)) == 0, "and is whole again on disk"


class Halted:
    """A merge that stops before its last part until ``go``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        whole = merging.Merge.parts

        def parts(merge: merging.Merge) -> Iterator[Entries]:
            found = list(whole(merge))
            self.reached.set()
            assert self.go.wait(60)
            yield from found

        monkeypatch.setattr(merging.Merge, "parts", parts)


def until_it_merges(owner: Owner, index: ChunkIndex, halted: Halted) -> None:
    for _ in range(200):
        owner.add(index)
        if halted.reached.wait(0.01):
            return
    assert halted.reached.wait(60), "nothing was merged"


def test_a_pack_that_goes_while_it_is_merged_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halted = Halted(monkeypatch)
    owner, index = Owner(3), ChunkIndex(tmp_path, KEY, SMALL)
    until_it_merges(owner, index, halted)
    first = next(iter(owner.packs))
    chunks, _ = owner.packs.pop(first)
    index.drop(SaltSet.of([first]))
    halted.go.set()
    index.settle()
    assert len(index._runs) < merging.FAN
    assert first not in index.salts()
    alone = np.array([owner.unique(chunk.tobytes()) for chunk in chunks])
    assert not index.find(chunks[alone])[0].any()
    owner.check(index)
    index.close()


def test_adding_waits_for_no_merge_and_closing_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halted = Halted(monkeypatch)
    owner, index = Owner(4), ChunkIndex(tmp_path, KEY, SMALL)
    until_it_merges(owner, index, halted)
    for _ in range(5):
        owner.add(index)
    assert owner.missing(index) == 0
    closing = threading.Thread(target=index.close)
    closing.start()
    while not index._closing:
        pass
    halted.go.set()
    closing.join(60)
    assert len(index._runs) >= merging.FAN, "the merge was given up"
    again = ChunkIndex(tmp_path, KEY, SMALL)
    assert owner.missing(again) == 0
    again.close()


def test_one_folder_serves_one(tmp_path: Path) -> None:
    owner, first = Owner(5), ChunkIndex(tmp_path, KEY, SMALL)
    second = ChunkIndex(tmp_path, KEY, SMALL)
    for _ in range(12):
        owner.add(first)
    owner.refresh(second)
    second.settle()
    assert owner.missing(second) == 0
    assert all(run.path is None for run in second._runs)
    first.close()
    third = ChunkIndex(tmp_path, KEY, SMALL)
    assert owner.missing(third) == 0
    third.close()


def test_a_folder_of_another_key_counts_for_nothing(tmp_path: Path) -> None:
    owner, index = Owner(6), ChunkIndex(tmp_path, KEY, SMALL)
    for _ in range(12):
        owner.add(index)
    index.close()
    other = ChunkIndex(tmp_path, b"another key's id", SMALL)
    assert len(other.salts()) == 0
    other.close()


def test_a_full_disk_costs_memory_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, index = Owner(8), ChunkIndex(tmp_path, KEY, SMALL)
    for _ in range(10):
        owner.add(index)
    index.settle()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for _ in range(20):
            owner.add(index)
        index.settle()
        owner.check(index)
        assert owner.missing(index) == 0
        assert any(run.path is None for run in index._runs)
    for _ in range(20):
        owner.add(index)
    index.settle()
    assert owner.missing(index) == 0
    index.close()
    again = ChunkIndex(tmp_path, KEY, SMALL)
    owner.refresh(again)
    assert owner.missing(again) == 0
    again.close()


def test_who_closed_it_writes_no_more_into_the_folder(tmp_path: Path) -> None:
    owner, index = Owner(9), ChunkIndex(tmp_path, KEY, SMALL)
    for _ in range(12):
        owner.add(index)
    index.close()
    other = ChunkIndex(tmp_path, KEY, SMALL)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for _ in range(40):
        owner.add(index)
    index.settle()
    assert owner.missing(index) == 0, "it can still be searched"
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    other.close()


def test_a_run_that_cannot_be_read_ends_no_merging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, index = Owner(10), ChunkIndex(tmp_path, KEY, SMALL)
    while not index._runs:
        owner.add(index)
        index.settle()
    (broken,) = index._runs
    whole = os.pread

    def bad_sector(handle: int, length: int, start: int) -> bytes:
        if handle == broken._source._handle:  # type: ignore[attr-defined]
            raise OSError(5, "Input/output error")
        return whole(handle, length, start)

    monkeypatch.setattr(os, "pread", bad_sector)
    for _ in range(60):
        owner.add(index)
    index.settle()
    assert broken not in index._runs
    assert len(index._runs) < 2 * merging.FAN
    owner.refresh(index)
    assert owner.missing(index) == 0
    index.close()


def test_merged_runs_go_once_a_manifest_names_them_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, index = Owner(11), ChunkIndex(tmp_path, KEY, SMALL)
    merged = threading.Event()
    parts, replace = merging.Merge.parts, Path.replace

    def noted(merge: merging.Merge) -> Iterator[Entries]:
        yield from parts(merge)
        merged.set()

    def full(path: Path, target: Path) -> Path:
        if merged.is_set():
            raise OSError(28, "No space left on device")
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(merging.Merge, "parts", noted)
        patched.setattr(Path, "replace", full)
        while not merged.is_set():
            owner.add(index)
            index.settle()
    assert owner.missing(index) == 0
    killed = tmp_path.parent / f"{tmp_path.name}-killed"
    shutil.copytree(tmp_path, killed)
    again = ChunkIndex(killed, KEY, SMALL)
    assert again._runs, "what the older manifest names is there"
    again.close()
    for _ in range(12):
        owner.add(index)
    index.settle()
    assert set(tmp_path.glob("run-*")) == {run.path for run in index._runs}
    index.close()
