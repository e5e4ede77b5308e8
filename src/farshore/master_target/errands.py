"""Carry out the errands that the configuration server names in its answers to reports.

For each errand a thread fetches the task and the keys of its machine, lets a process do it, and reports the progress
every second; the answer says whether to continue. What is known of an errand is in its record on this host and in the
disks' notices. If this program is killed, the server names the errand to the next start, which continues it.

If the configuration server has not answered for a minute, an errand is interrupted until it answers again: by then it
may have been given to another master target, and no disk may have two writers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from farshore.api_types.commands import CommandFailure
from farshore.api_types.master_targets import ErrandClaim, ErrandProgress, ErrandResult, ErrandStanding, HomeErrand
from farshore.api_types.servers import MachineKeys
from farshore.master_target.record import RecordFolder
from farshore.model.errors import Busy, FarshoreError, Forbidden, NotFound, Refused, Unauthenticated
from farshore.model.home_task import DiskPlace, DomainKeys, Errand, HeldKeys, HomeTask
from farshore.model.identifiers import new_id

_log = logging.getLogger(__name__)

AT_ONCE = 4
BEAT_SECONDS = 1.0
RETRY_SECONDS = 5.0
UNHEARD_SECONDS = 60.0


class Control(Protocol):
    """farshore.client.master_target_self.MasterTargetSelf."""

    def begin_errand(self, errand: str, claim: ErrandClaim) -> HomeErrand:
        """Fetch an errand's task. Raises NotFound, WrongState, TryLater."""
        ...

    def keys(self, machine: str) -> MachineKeys:
        """Fetch a machine's keys. Raises Forbidden, TryLater."""
        ...

    def note_errand(self, errand: str, progress: ErrandProgress) -> ErrandStanding:
        """Report progress. Raises TryLater."""
        ...

    def end_errand(self, errand: str, result: ErrandResult) -> ErrandStanding:
        """Report the result. Raises TryLater."""
        ...


class Work(Protocol):
    """farshore.master_target.errand_process.ErrandProcess."""

    def run(self) -> tuple[int, int]:
        """Do the errand. Raises its error."""
        ...

    def end(self) -> None:
        """Interrupt it, from any thread."""
        ...


MakeWork = Callable[[HomeTask, Callable[[float, str], None]], Work]


class Errands:
    """``state`` holds a folder for each failback. Created and stopped once; one thread reports errands to it."""

    def __init__(self, control: Control, vault_url: str, upkeep: str, state: Path, work: MakeWork) -> None:
        self._control, self._work = control, work
        self._vault_url, self._upkeep, self._state = vault_url, upkeep, state
        self._run = new_id()
        self._lock = threading.Lock()
        self._under_way: dict[str, _Errand] = {}
        self._stopping = threading.Event()
        self._workers = ThreadPoolExecutor(AT_ONCE, "errand")

    def offered(self, errands: Sequence[str]) -> None:
        """Begin those of the open errands that are not in progress."""
        with self._lock:
            if self._stopping.is_set():
                return
            new = [_Errand(one, self._run, self._control) for one in errands if one not in self._under_way]
            self._under_way.update({one.id: one for one in new})
        for one in new:
            self._workers.submit(self._carry_out, one)

    def held(self) -> list[str]:
        """Return the failbacks that have a record."""
        return sorted(path.name for path in self._state.glob("*") if path.is_dir())

    def forget(self, failovers: Sequence[str]) -> None:
        """Delete records that nobody needs. One that is in use is left for the next time."""
        for name in failovers:
            folder = RecordFolder(self._state / name)
            if name in self.held():
                try:
                    with folder.locked():
                        folder.forget()
                        (folder.folder / "lock").unlink()
                    folder.folder.rmdir()
                except (Busy, OSError) as error:
                    _log.info("The record of failback %s cannot be deleted yet: %s", name, error)

    def stop(self) -> None:
        """End the errands in progress, and begin no more: the next start continues them."""
        self._stopping.set()
        with self._lock:
            found = list(self._under_way.values())
        for one in found:
            one.end()
        self._workers.shutdown(cancel_futures=True)

    def _carry_out(self, one: _Errand) -> None:
        try:
            result = one.carry_out(self._task, self._work)
            while result is not None and not self._heard(one.id, result):
                if self._stopping.wait(RETRY_SECONDS):
                    return
        except FarshoreError as error:
            _log.warning("Errand %s: %s", one.id, error)
        except Exception as error:  # noqa: BLE001 - an errand must not end the others
            _log.error("Errand %s failed; it is begun again if it is still wanted.", one.id, exc_info=error)
        finally:
            with self._lock:
                del self._under_way[one.id]

    def _task(self, asked: HomeErrand) -> HomeTask:
        given = self._control.keys(asked.machine)
        chunks = tuple(DomainKeys(one.domain, one.seal, one.hash) for one in given.chunks)
        return HomeTask(
            Errand(asked.errand),
            self._vault_url,
            asked.machine,
            str(self._state / asked.failover),
            tuple(DiskPlace(one.disk, one.path, one.image) for one in asked.places),
            HeldKeys(self._upkeep, given.key, chunks),
            asked.position,
        )

    def _heard(self, errand: str, result: ErrandResult) -> bool:
        try:
            self._control.end_errand(errand, result)
        except (Refused, NotFound) as error:
            _log.warning("The server refused the result of errand %s: %s", errand, error)
        except FarshoreError as error:
            _log.info("The result of errand %s is sent later: %s", errand, error)
            return False
        return True


class _Errand:
    """One errand, carried out once."""

    def __init__(self, errand: str, run: str, control: Control) -> None:
        self.id = errand
        self._run, self._control = run, control
        self._fraction, self._detail = 0.0, ""
        self._ended, self._done = threading.Event(), threading.Event()
        self._work: Work | None = None

    def end(self) -> None:
        """Interrupt it, from any thread."""
        self._ended.set()
        if self._work is not None:
            self._work.end()

    def carry_out(self, task_of: Callable[[HomeErrand], HomeTask], make: MakeWork) -> ErrandResult | None:
        """Return its result; None if it was interrupted, or is no longer wanted. Raises what prevented it from
        beginning."""
        asked = self._control.begin_errand(self.id, ErrandClaim(run=self._run))
        _log.info("Machine %s: %s its disks at home (errand %s).", asked.machine, asked.errand, self.id)
        beats = threading.Thread(target=self._beat, name="beats", daemon=True)
        beats.start()
        try:
            compared, written = self._do(asked, task_of, make)
            return ErrandResult(run=self._run, compared=compared, written=written)
        except FarshoreError as error:
            if self._ended.is_set():
                _log.info("Errand %s was interrupted.", self.id)
                return None
            said = CommandFailure(code=error.code, message=error.message, remedy=error.remedy)
            return ErrandResult(run=self._run, failure=said)
        finally:
            self._done.set()
            beats.join()

    def _do(self, asked: HomeErrand, task_of: Callable[[HomeErrand], HomeTask], make: MakeWork) -> tuple[int, int]:
        """Do it; repeat it with other keys if the machine has new ones."""
        task = task_of(asked)
        while True:
            self._work = work = make(task, self._tell)
            if self._ended.is_set():
                work.end()
            try:
                return work.run()
            except Forbidden:
                before, task = task, task_of(asked)
                if task.keys == before.keys:
                    raise

    def _beat(self) -> None:
        """Report the progress until the errand is done, or no longer wanted."""
        heard = time.monotonic()
        while not self._done.wait(BEAT_SECONDS):
            progress = ErrandProgress(run=self._run, fraction=self._fraction, detail=self._detail)
            try:
                wanted = self._control.note_errand(self.id, progress).wanted
                heard = time.monotonic()
            except (Forbidden, Unauthenticated) as error:
                _log.warning("Errand %s ends, because this master target was revoked: %s", self.id, error)
                wanted = False
            except FarshoreError as error:
                _log.info("The progress of errand %s could not be reported: %s", self.id, error)
                wanted = time.monotonic() - heard < UNHEARD_SECONDS
            if not wanted:
                self.end()
                return

    def _tell(self, fraction: float, detail: str) -> None:
        self._fraction, self._detail = min(1.0, max(0.0, fraction)), detail
