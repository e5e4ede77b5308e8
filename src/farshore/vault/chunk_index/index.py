"""The chunk index of a domain: find chunks by hash, add those of packs, drop packs. A cache of what the vault says.

What is added goes to memory (`Recent`) and is found at once. When SMALLEST entries are there a thread writes them as
a run, and merges runs by and by; who adds never waits for a merge. A file is whole before the manifest names it, and
goes only after the manifest names it no more, so a crash at any moment leaves a manifest whose files are whole. It may
lack the newest packs, and hold ones that were dropped: before it is first asked its owner compares `salts` with the
vault's listing, adds what is missing and drops what is gone.

What does not verify is dropped as a whole, and its packs with it, so that the owner adds them again. While the disk is
full or broken what is new stays in memory.

Memory: about 1.6 bytes for each chunk on disk (filter 1.33, packs 0.15, fences 0.06), and up to 4 MiB of recent ones.
Without a folder: 34 bytes a chunk.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from farshore.formats.chunk_pack import LOCATOR, Hashes, Locators
from farshore.vault.chunk_index.entries import Entries, Mask, Pieces, Recent, hash_words
from farshore.vault.chunk_index.folder import IndexFolder, private
from farshore.vault.chunk_index.merging import Merge, due
from farshore.vault.chunk_index.run import FileSource, MemorySource, SortedRun
from farshore.vault.chunk_index.run_format import RUN_BYTES, RunWriter, Untrusted
from farshore.vault.upkeep.salts import SALT_BYTES, Salts, SaltSet

_log = logging.getLogger(__name__)
SMALLEST = 1 << 16
_MOST_WAITING = 8
"""Full sets of recent entries, 2 MiB each; who adds more waits until one is written, which no merge delays."""


class _Stopped(Exception):
    """The index is being closed; merges are begun again another time."""


class ChunkIndex:
    """Safe to use from several threads. Without a ``folder``, or if another process has it, all is in memory."""

    def __init__(self, folder: Path | None, key_id: bytes, smallest: int = SMALLEST) -> None:
        self._key_id, self._smallest = key_id, smallest
        self._folder = None if folder is None else IndexFolder.open(folder, key_id)
        self._disk_works, self._closing = True, False
        self._changed = threading.Condition()
        self._runs: tuple[SortedRun, ...] = () if self._folder is None else tuple(self._folder.load())
        self._full: tuple[Recent, ...] = ()
        self._recent = Recent()
        self._worker: threading.Thread | None = None
        self._leaving: list[SortedRun] = []
        """Merged runs whose files a manifest may still name."""

    def add(self, salt: bytes, hashes: Hashes, locators: Locators) -> None:
        """Make the chunks of a pack findable: the caller knows that it is in the vault."""
        with self._changed:
            while len(self._full) >= _MOST_WAITING:
                self._start()
                self._changed.wait()
            self._recent.add(salt, hashes, locators)
            if self._recent.count >= self._smallest:
                self._put_aside()

    def find(self, hashes: Hashes) -> tuple[Mask, Locators]:
        """Return which chunks are held, and where; ``hashes`` has shape (n, 32)."""
        high, low = hash_words(hashes)
        found = np.zeros(len(high), np.bool_)
        locators = np.zeros(len(high), LOCATOR)
        with self._changed:
            runs = self._runs
            recent = [one.pieces() for one in (*self._full, self._recent)]
        parts: list[SortedRun | Pieces] = [*runs, *recent]
        for part in parts:
            left = np.flatnonzero(~found)
            if not len(left):
                break
            try:
                here, places = part.find(high[left], low[left])
            except Untrusted as error:
                assert isinstance(part, SortedRun)
                self._throw_away(part, error)
                continue
            locators[left[here]] = places[here]
            found[left[here]] = True
        return found, locators

    def salts(self) -> SaltSet:
        """Return the packs whose chunks can be found."""
        with self._changed:
            parts = [one.salts[~one.dead] for one in self._parts()]
        return SaltSet(np.concatenate([np.zeros((0, SALT_BYTES), np.uint8), *parts]))

    def drop(self, gone: SaltSet) -> None:
        """Remove the chunks of these packs from what can be found."""
        if not len(gone):
            return
        with self._changed:
            for part in self._parts():
                part.drop(gone)
            self._start()

    def _parts(self) -> list[SortedRun | Recent]:
        return [*self._runs, *self._full, self._recent]

    def settle(self) -> None:
        """Wait until what is full is written and what is due is merged."""
        with self._changed:
            while self._worker is not None:
                self._changed.wait()

    def close(self) -> None:
        """Write what is in memory only, and give the folder to others. Waits for no merge. Who still has the index may
        search it, and add to it in memory: the folder is somebody else's now."""
        with self._changed:
            folder = self._folder
            if folder is None:
                return
            self._closing = True
            if self._recent.count:
                self._put_aside()
            while self._worker is not None:
                self._changed.wait()
            self._folder = None
        folder.close()

    def _put_aside(self) -> None:
        self._full += (self._recent,)
        self._recent = Recent()
        self._start()

    def _start(self) -> None:
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="chunk-index", daemon=True)
            self._worker.start()

    def _work(self) -> None:
        working = True
        try:
            while working:
                while self._write_full() or self._merge_some():
                    pass
                with self._changed:
                    working = bool(self._full)
                    if not working:
                        self._worker = None
                        self._changed.notify_all()
        except BaseException:
            with self._changed:
                self._worker = None
                self._changed.notify_all()
            raise

    def _write_full(self) -> bool:
        """Write the oldest full set of recent entries; return whether there was one."""
        with self._changed:
            if not self._full:
                return False
            recent = self._full[0]
            alive = ~recent.dead
            entries, salts = recent.all(), recent.salts[alive]
        entries["pack"] = np.cumsum(alive, dtype=np.uint32)[entries["pack"]] - 1
        self._disk_works = True
        try:
            run = self._written([entries], salts, len(entries))
        except OSError as error:
            self._no_disk(error)
            run = self._written([entries], salts, len(entries))
        with self._changed:
            run.dead |= recent.dead[alive]
            self._runs += (run,)
            self._full = self._full[1:]
            self._changed.notify_all()
        self._commit()
        return True

    def _merge_some(self) -> bool:
        """Merge what is due; return whether anything was."""
        if self._closing or (self._folder is not None and not self._disk_works):
            return False  # merging in memory would make room for what is on disk there
        with self._changed:
            chosen = self._chosen()
        if not chosen:
            return False
        merge = Merge(chosen)
        try:
            run = self._written(self._between_writes(merge.parts()), merge.salts, merge.most)
        except Untrusted as error:
            for one in chosen:
                if not one.verifies():
                    self._throw_away(one, error)
            return True
        except OSError as error:
            self._no_disk(error)
            return False
        except _Stopped:
            return False
        with self._changed:
            # Unless one was thrown away meanwhile, they are neighbours still: only this thread adds runs.
            valid = all(one in self._runs for one in chosen)
            if valid:
                # What died while the merge ran must not come to life again.
                run.dead |= merge.dead_since()
                place = self._runs.index(chosen[0])
                made = (run,) if len(merge.salts) else ()
                self._runs = (*self._runs[:place], *made, *self._runs[place + len(chosen) :])
        if not valid or not len(merge.salts):
            run.remove()
        if valid:
            self._leaving += chosen
        self._commit()
        return True

    def _chosen(self) -> tuple[SortedRun, ...]:
        """What to merge: the newest of like sizes, or a run that is mostly dead."""
        count = due([run.count for run in self._runs], self._smallest)
        if count:
            return self._runs[-count:]
        return next(((run,) for run in self._runs if 2 * np.count_nonzero(run.dead) > len(run.dead)), ())

    def _between_writes(self, parts: Iterator[Entries]) -> Iterator[Entries]:
        """Recent entries do not wait for the end of a long merge."""
        for part in parts:
            yield part
            while self._write_full():
                pass
            if self._closing:
                raise _Stopped

    def _written(self, parts: Iterable[Entries], salts: Salts, most: int) -> SortedRun:
        """A new run of these entries. Raises OSError, and what ``parts`` raises."""
        if self._folder is None or not self._disk_works:
            data = io.BytesIO()
            writer = RunWriter(data, secrets.token_bytes(RUN_BYTES), self._key_id, most)
            for part in parts:
                writer.append(part)
            footer, tail = writer.finish(salts)
            return SortedRun(MemorySource(data.getvalue()), footer, tail)
        name, path = self._folder.new_run()
        try:
            with open(path, "xb", opener=private) as file:
                writer = RunWriter(file, name, self._key_id, most)
                for part in parts:
                    writer.append(part)
                footer, tail = writer.finish(salts)
                file.flush()
                os.fsync(file.fileno())
            return SortedRun(FileSource(path), footer, tail, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _commit(self) -> None:
        if self._folder is None:
            return
        try:
            self._folder.commit(self._runs)
        except OSError as error:  # the manifest names the runs that were merged still: they stay until another one does
            self._no_disk(error)
            return
        for one in self._leaving:
            one.remove()
        self._leaving = []

    def _no_disk(self, error: OSError) -> None:
        self._disk_works = False
        _log.warning("The chunk index cannot be written and goes on in memory (%s).", error)

    def _throw_away(self, run: SortedRun, error: Exception) -> None:
        _log.warning("A part of the chunk index is thrown away: %s (%s). It is made again from the vault.", error, run)
        with self._changed:
            self._runs = tuple(one for one in self._runs if one is not run)
        run.remove()
