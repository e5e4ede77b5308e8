"""An installer whose bundle is still being made waits for it, and ends with the push."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from farshore.model.errors import TryLater
from farshore.protection.push.bundle import Bundle, PythonVersion
from farshore.protection.push.install import PushInstaller


def busy(after: float | None) -> TryLater:
    return TryLater("It is being made.", remedy="-", after=after)


def test_it_asks_again_as_long_as_it_is_told_when() -> None:
    answers: list[TryLater | None] = [busy(0.001), busy(0.001), None]

    def bundles(_python: PythonVersion) -> Bundle:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return Bundle("r1", Path("x"))

    assert asyncio.run(PushInstaller(bundles=bundles)._bundle((3, 11))).release == "r1"
    assert answers == []


def test_a_failure_without_a_time_to_wait_is_a_failure() -> None:
    asked: list[PythonVersion] = []

    def bundles(python: PythonVersion) -> Bundle:
        asked.append(python)
        raise busy(None)

    with pytest.raises(TryLater):
        asyncio.run(PushInstaller(bundles=bundles)._bundle((3, 11)))
    assert len(asked) == 1


def test_a_cancelled_push_waits_no_longer() -> None:
    asked = asyncio.Event()
    loop: asyncio.AbstractEventLoop

    def bundles(_python: PythonVersion) -> Bundle:
        loop.call_soon_threadsafe(asked.set)
        raise busy(3600)

    async def cancel() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        work = asyncio.ensure_future(PushInstaller(bundles=bundles)._bundle((3, 11)))
        await asked.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(cancel())
