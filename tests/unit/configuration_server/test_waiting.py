"""Streams of commands: woken by whoever writes, missing nothing, ended when somebody else or nobody is to be served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine
from tests.waiting import until

from farshore.api_types.commands import Commands, ResyncArguments
from farshore.api_types.users import Role
from farshore.catalog import commands, machines, users
from farshore.catalog.commands import COMMANDS
from farshore.catalog.database import Catalog, Transaction
from farshore.configuration_server import command_lines as streams
from farshore.configuration_server.command_lines import command_lines
from farshore.configuration_server.identity import Kind
from farshore.configuration_server.waiting import Waiting, look
from farshore.model.errors import Fenced
from farshore.protection.commands import ask, offered
from farshore.protection.granting import fence

PATIENCE = 60.0


class Desk:
    """The catalog of one server and its streams."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog, self.waiting = catalog, Waiting()
        self.reads = 0

    def offers(self) -> Commands:
        self.reads += 1
        with self.catalog.reading() as tx:
            return offered(tx, machines.get(tx, MACHINE), "r", 0)

    def stream(self) -> AsyncIterator[list[str]]:
        heard = self.waiting.heard
        return ids(command_lines(self.waiting, MACHINE, heard, self.offers(), self.offers))

    def ask(self, command: str, catalog: Catalog | None = None) -> None:
        (catalog or self.catalog).write(lambda tx: ask(tx, command, MACHINE, ResyncArguments(), NOW))


async def ids(lines: AsyncIterator[bytes]) -> AsyncIterator[list[str]]:
    async for line in lines:
        yield [command["id"] for command in json.loads(line)["commands"]] if line.strip() else ["still here"]


async def following(stream: AsyncIterator[list[str]]) -> list[str] | None:
    """The next list; None: the stream has ended."""
    async with asyncio.timeout(PATIENCE):
        return await anext(stream, None)


@pytest.fixture
def desk(office: Office) -> Desk:
    with office.services.catalog.writing() as tx:
        add_machine(tx)
    made = Desk(office.services.catalog)
    made.catalog.listen(COMMANDS, made.waiting.wake)
    return made


def run(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scene())  # type: ignore[arg-type]


def test_a_command_wakes_the_stream_and_so_does_its_end(desk: Desk) -> None:
    async def scene() -> None:
        stream = desk.stream()
        assert await following(stream) == []
        asking = asyncio.create_task(asyncio.to_thread(desk.ask, "c"))
        assert await following(stream) == ["c"]
        await asking
        await asyncio.to_thread(desk.catalog.write, lambda tx: commands.withdraw(tx, "c", NOW))
        assert await following(stream) == []

    run(scene)


def test_what_was_written_between_reading_and_waiting_is_not_missed(desk: Desk) -> None:
    async def scene() -> None:
        stream = desk.stream()  # has read, and waits for nothing yet
        desk.ask("c")
        assert await following(stream) == []
        assert await following(stream) == ["c"]

    run(scene)


def test_what_was_not_committed_wakes_nobody(desk: Desk) -> None:
    def fail(tx: Transaction) -> None:
        ask(tx, "c", MACHINE, ResyncArguments(), NOW)
        raise KeyError

    with pytest.raises(KeyError):
        desk.catalog.write(fail)
    assert desk.waiting.heard == 0
    desk.ask("d")
    assert desk.waiting.heard == 1


def test_another_servers_command_is_found_by_the_look(desk: Desk, tmp_path: Path) -> None:
    other = Catalog(str(desk.catalog.engine.url))

    async def scene() -> None:
        stream = desk.stream()
        assert await following(stream) == []
        waiting = asyncio.create_task(following(stream))
        await asyncio.sleep(0)
        desk.ask("c", other)
        assert desk.waiting.heard == 0, "nobody told this server"
        look(desk.catalog, desk.waiting)
        assert await waiting == ["c"]
        waiting = asyncio.create_task(following(stream))
        await asyncio.sleep(0)
        other.write(lambda tx: commands.withdraw(tx, "c", NOW))
        look(desk.catalog, desk.waiting)
        assert await waiting == []

    run(scene)
    other.close()


def test_a_look_that_finds_nothing_new_reads_for_nobody(desk: Desk) -> None:
    desk.ask("c")

    async def scene() -> None:
        stream = desk.stream()
        assert await following(stream) == ["c"]
        waiting = asyncio.create_task(following(stream))
        await asyncio.sleep(0)
        for _ in range(5):
            look(desk.catalog, desk.waiting)
            await asyncio.sleep(0)
        assert desk.reads == 1
        desk.ask("d")
        assert await waiting == ["c", "d"]

    run(scene)


def test_a_newer_stream_takes_the_older_ones_place(desk: Desk) -> None:
    async def scene() -> None:
        older, newer = desk.stream(), desk.stream()
        assert await following(older) == []
        assert await following(newer) == []
        assert await following(older) is None
        assert desk.waiting.machines == {MACHINE}, "the older one's end is not the newer one's"
        desk.ask("c")
        assert await following(newer) == ["c"]

    run(scene)


def test_a_server_that_ends_ends_its_streams_and_holds_no_new_ones(desk: Desk) -> None:
    async def scene() -> None:
        stream = desk.stream()
        assert await following(stream) == []
        desk.waiting.end()
        assert await following(stream) is None
        late = desk.stream()
        assert await following(late) == []
        assert await following(late) is None

    run(scene)


def test_who_may_hear_no_more_hears_no_more(desk: Desk) -> None:
    """As for a certificate that was revoked, or a run that was fenced."""

    def refuse() -> Commands:
        raise Fenced("no", remedy="")

    async def scene() -> None:
        stream = ids(command_lines(desk.waiting, MACHINE, 0, desk.offers(), refuse))
        assert await following(stream) == []
        with desk.catalog.writing() as tx:
            fence(tx, machines.get(tx, MACHINE), NOW, "it was revoked")
        assert await following(stream) is None
        assert desk.waiting.machines == set()

    run(scene)


def test_a_quiet_stream_shows_signs_of_life_and_ends_in_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE", 0.05)
    monkeypatch.setattr(streams, "LONGEST", 0.5)

    async def scene() -> None:
        stream = desk.stream()
        assert await following(stream) == []
        assert await following(stream) == ["still here"]
        while await following(stream) is not None:
            pass
        assert desk.waiting.machines == set()

    run(scene)
    assert desk.reads == 1, "no query for somebody who is idle"


def path(run: str = "run-1", epoch: int = 0) -> str:
    return f"/v1/machines/self/commands?run={run}&epoch={epoch}"


def test_over_the_api_a_stream_begins_with_what_is_open_and_a_result_is_noted(desk: Desk, office: Office) -> None:
    desk.ask("c")
    shown = office.certificate(Kind.MACHINE, MACHINE)
    office.services.waiting.end()  # so that it ends after its first line
    answer = office.call("GET", path(), certificate=shown)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [command["id"] for command in answer.body["commands"]] == ["c"]
    result = "/v1/machines/self/commands/c/result"
    said = office.call("PUT", result, {"payload": {"kind": "resync"}}, shown)
    assert said.body == {"id": "c", "state": "succeeded"}
    assert office.call("PUT", result, {"payload": {"kind": "resync"}}, shown).body["state"] == "succeeded"
    assert office.call("GET", path(epoch=3, run="another"), certificate=shown).code == "fenced"


def test_a_resync_wakes_the_stream_over_the_api(desk: Desk, office: Office) -> None:
    office.services.catalog.listen(COMMANDS, office.services.waiting.wake)
    with desk.catalog.writing() as tx:
        machines.get(tx, MACHINE).state = "protected"
    operator = office.user("op", Role.OPERATOR)
    before = office.services.waiting.heard
    assert office.call("POST", f"/v1/machines/{MACHINE}/resync", certificate=operator).status == 202
    assert office.services.waiting.heard == before + 1


def test_a_certificate_that_was_revoked_meanwhile_hears_of_nothing(desk: Desk, office: Office) -> None:
    """The stream is open when the certificate is revoked; what is asked for then does not go over it."""
    shown = office.certificate(Kind.MACHINE, MACHINE)
    waiting = office.services.waiting
    office.services.catalog.listen(COMMANDS, waiting.wake)

    async def scene() -> Any:
        loop = asyncio.get_running_loop()
        answer = loop.run_in_executor(None, partial(office.call, "GET", path(), certificate=shown))
        await asyncio.to_thread(until, lambda: MACHINE in waiting.machines)
        with desk.catalog.writing() as tx:
            users.revoke_certificates(tx, "machine", MACHINE, NOW)
            ask(tx, "secret", MACHINE, ResyncArguments(), NOW)
        return await answer

    answer = asyncio.run(scene())
    assert (answer.status, answer.body) == (200, {"commands": []}), "its first line, and no other"


@pytest.mark.parametrize("how", ["revoke", "delete"])
def test_a_certificate_that_is_revoked_loses_its_open_stream_at_once(desk: Desk, office: Office, how: str) -> None:
    """Over the API, with nothing asked for after it: the stream's answer ends."""
    with desk.catalog.writing() as tx:
        machines.get(tx, MACHINE).state = "unprotected" if how == "delete" else "protected"
    shown, admin = office.certificate(Kind.MACHINE, MACHINE), office.user("ann", Role.CONTRIBUTOR)
    waiting = office.services.waiting
    office.services.catalog.listen(COMMANDS, waiting.wake)
    method, place = ("DELETE", "") if how == "delete" else ("POST", "/revoke")

    async def scene() -> Any:
        loop = asyncio.get_running_loop()
        answer = loop.run_in_executor(None, partial(office.call, "GET", path(), certificate=shown))
        await asyncio.to_thread(until, lambda: MACHINE in waiting.machines)
        said = await asyncio.to_thread(office.call, method, f"/v1/machines/{MACHINE}{place}", None, admin)
        assert said.status == 204
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(answer)
        finally:
            waiting.end()  # else the thread that asks would never end

    assert asyncio.run(scene()).status == 200
    assert waiting.machines == set()
