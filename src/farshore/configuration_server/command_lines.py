"""The stream over which an agent receives its commands: its content, and its end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.concurrency import run_in_threadpool

from farshore.api_types.commands import KEEP_ALIVE, Commands
from farshore.configuration_server.waiting import Waiting
from farshore.model.errors import FarshoreError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/x-ndjson"
LONGEST = 1800.0
"""Seconds after which a stream ends and is opened again, so that the caller is authenticated again."""
COMMAND_LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {"schema": Commands.model_json_schema()}}, "description": "A line for each change"}
}


async def command_lines(
    waiting: Waiting, machine: str, heard: int, first: Commands, offers: Callable[[], Commands]
) -> AsyncIterator[bytes]:
    """Yield the lines of one stream: first ``first``, the open commands as they were when ``waiting`` was at ``heard``;
    then the result of ``offers``, which is called in a thread, each time its commands have changed. A FarshoreError
    from it ends the stream; the agent learns of the error when it opens the next one."""
    loop = asyncio.get_running_loop()
    # Randomised: streams that began at the same moment, after a restart, neither end nor send their empty lines
    # together.
    end = loop.time() + LONGEST * random.uniform(0.5, 1.0)
    due = loop.time() + KEEP_ALIVE * random.uniform(0.1, 1.0)
    with waiting.wait(machine, _ids(first), heard) as waiter:
        yield _line(first)
        while loop.time() < end:
            news = await waiter.woken(due)
            if waiter.ended:
                return
            if news:
                try:
                    found = await run_in_threadpool(offers)
                except FarshoreError as error:
                    log.info("The stream of commands of machine %s ends: %s", machine, error)
                    return
                if _ids(found) == waiter.known:
                    continue
                waiter.known = _ids(found)
                yield _line(found)
            else:
                yield b"\n"
            due = loop.time() + KEEP_ALIVE


def _ids(offered: Commands) -> tuple[str, ...]:
    return tuple(command.id for command in offered.commands)


def _line(offered: Commands) -> bytes:
    return offered.model_dump_json().encode() + b"\n"
