"""Carry out the pushes that the configuration server names in its answers to reports.

For each push a thread fetches the login, sealed to a key that is made for it, installs, and reports the progress every
second; the answer says whether to continue. Nothing is written to disk: if this process is killed, the server names the
push to the next start, which begins it again with the same result. If the configuration server was unreachable
meanwhile, which also prevents a machine from enrolling, a failed push is repeated once it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

from farshore.api_types.commands import CommandFailure
from farshore.api_types.pushes import PushClaim, PushProgress, PushResult, PushStanding, SealedPush
from farshore.model.errors import Damaged, FarshoreError, Forbidden, Refused, Unauthenticated
from farshore.model.identifiers import new_id
from farshore.protection.installation import PushTarget, Reporter
from farshore.protection.push.sealed_target import Opener

_log = logging.getLogger(__name__)

AT_ONCE = 4
BEAT_SECONDS = 1.0
ATTEMPTS = 3
RETRY_SECONDS = 5.0
Install = Callable[[PushTarget, Reporter], Coroutine[Any, Any, str]]
"""farshore.protection.push.install.PushInstaller.install."""


class PushSource(Protocol):
    """farshore.client.process_server_self.ProcessServerSelf."""

    def begin_push(self, push: str, claim: PushClaim) -> SealedPush:
        """Fetch a push's login. Raises NotFound, WrongState, TryLater."""
        ...

    def note_push(self, push: str, progress: PushProgress) -> PushStanding:
        """Report progress. Raises TryLater."""
        ...

    def end_push(self, push: str, result: PushResult) -> PushStanding:
        """Report the result. Raises TryLater."""
        ...


class Pushes:
    """The reporter's thread passes pushes to it. Created and stopped once."""

    def __init__(self, source: PushSource, install: Install) -> None:
        self._source, self._install = source, install
        self._run = new_id()
        self._lock = threading.Lock()
        self._under_way: dict[str, _Push] = {}
        self._stopping = threading.Event()
        self._workers = ThreadPoolExecutor(AT_ONCE, "push")

    def offered(self, pushes: Sequence[str]) -> None:
        """Begin those of these pushes that are not in progress."""
        with self._lock:
            if self._stopping.is_set():
                return
            new = [_Push(push, self._run, self._source, self._install) for push in pushes]
            new = [push for push in new if push.id not in self._under_way]
            self._under_way.update({push.id: push for push in new})
        for push in new:
            self._workers.submit(self._carry_out, push)

    def stop(self) -> None:
        """End the pushes in progress, and begin no more: the next start continues them."""
        self._stopping.set()
        with self._lock:
            found = list(self._under_way.values())
        for push in found:
            push.end()
        self._workers.shutdown(cancel_futures=True)

    def _carry_out(self, push: _Push) -> None:
        try:
            result = push.carry_out()
            while result is not None and not self._heard(push.id, result):
                if self._stopping.wait(RETRY_SECONDS):
                    return
        except FarshoreError as error:
            _log.warning("Push %s: %s", push.id, error)
        except Exception as error:  # noqa: BLE001 - a push must not end the server that stores streams
            _log.error("Push %s failed; it is begun again if it is still wanted.", push.id, exc_info=error)
        finally:
            with self._lock:
                del self._under_way[push.id]

    def _heard(self, push: str, result: PushResult) -> bool:
        try:
            self._source.end_push(push, result)
        except Refused as error:
            _log.warning("The server refused the result of push %s: %s", push, error)
        except FarshoreError as error:
            _log.info("The result of push %s is sent later: %s", push, error)
            return False
        return True


class _Push:
    """One push, carried out once, in its own thread and loop."""

    def __init__(self, push: str, run: str, source: PushSource, install: Install) -> None:
        self.id = push
        self._run, self._source, self._install = run, source, install
        self._fraction, self._detail = 0.0, ""
        self._jump_key = ""
        self._answers, self._was_away = asyncio.Event(), False
        """Whether the last request to the configuration server was answered, and whether one was not since the attempt
        began."""
        self._ended = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[PushResult | None] | None = None

    def end(self) -> None:
        """Cancel the push. May be called from any thread."""
        self._ended.set()
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                loop.call_soon_threadsafe(task.cancel)

    def carry_out(self) -> PushResult | None:
        """Return the push's result, or None if it was cancelled. Raises the error that prevented it from beginning."""
        opener = Opener(self.id)
        claim = PushClaim(run=self._run, key=opener.public.hex())
        target = opener.open(bytes.fromhex(self._source.begin_push(self.id, claim).sealed))
        if target.jump is not None:
            target = replace(target, jump=replace(target.jump, seen=self._saw_jump_host))
        _log.info("Installing the mobility service on %s (push %s).", target.host, self.id)
        return asyncio.run(self._work(target))

    async def _work(self, target: PushTarget) -> PushResult | None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._ended.is_set():
            return None
        work = asyncio.ensure_future(self._attempts(target))
        beats = asyncio.ensure_future(self._beat(work))
        try:
            return await work
        except asyncio.CancelledError:
            _log.info("Push %s was interrupted.", self.id)
            return None
        finally:
            beats.cancel()

    async def _attempts(self, target: PushTarget) -> PushResult:
        for left in reversed(range(ATTEMPTS)):
            self._was_away = False
            try:
                shown = await self._install(target, self._tell)
                return PushResult(run=self._run, host_key=shown, jump_key=self._jump_key)
            except FarshoreError as error:
                failure = error
            except Exception as error:  # noqa: BLE001
                _log.error("Push %s failed.", self.id, exc_info=error)
                what = f"The process server failed: {type(error).__name__}."
                failure = Damaged(what, remedy="Read the process server's log: journalctl -u farshore-process-server")
            if not left or not self._was_away:
                break
            self._detail = "the configuration server was unreachable; trying again"
            await self._answers.wait()
        said = CommandFailure(code=failure.code, message=failure.message, remedy=failure.remedy)
        return PushResult(run=self._run, failure=said)

    async def _beat(self, work: asyncio.Future[PushResult]) -> None:
        """Report the progress until the push is no longer wanted."""
        while True:
            progress = PushProgress(run=self._run, fraction=self._fraction, detail=self._detail)
            try:
                standing = await asyncio.to_thread(self._source.note_push, self.id, progress)
            except (Forbidden, Unauthenticated) as error:
                _log.warning("Push %s ends, because this process server was revoked: %s", self.id, error)
                work.cancel()
                return
            except FarshoreError as error:
                _log.info("The progress of push %s could not be reported: %s", self.id, error)
                self._answers.clear()
                self._was_away = True
            else:
                if not standing.wanted:
                    work.cancel()
                    return
                self._answers.set()
            await asyncio.sleep(BEAT_SECONDS)

    def _tell(self, fraction: float, detail: str) -> None:
        self._fraction, self._detail = fraction, detail

    def _saw_jump_host(self, shown: str) -> None:
        self._jump_key = shown
