"""Commands over a real server and mutual TLS, heard and handled by the agent's own code, over kills and a shutdown."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any, Sequence

from tests.scenarios.control.servers import Agent, Server, register, whole_epoch
from tests.waiting import until

from farshore.api_types.commands import Command
from farshore.api_types.jobs import Job
from farshore.api_types.machines import Machine, ProofRequest
from farshore.api_types.points import PointRequest
from farshore.client.management import Management
from farshore.clock import SystemClock
from farshore.mobility.commands.fetching import Fetching
from farshore.mobility.commands.handling import Handling
from farshore.mobility.commands.record import Record
from farshore.mobility.control.removal import Removal
from farshore.mobility.control.shutdown import Shutdown
from farshore.mobility.points.services import Services
from farshore.mobility.settings import Settings
from farshore.model.states import JobState


class Stream:
    """A stream that has no consistent state: points are refused. Resyncs are counted."""

    current = None

    def __init__(self) -> None:
        self.resyncs = 0

    def resync(self) -> None:
        self.resyncs += 1


class NoUpgrades:
    under_way = None


class Hearing:
    """The part of an agent that hears commands, as one process of it."""

    def __init__(self, agent: Agent, record: Path) -> None:
        self.stream, self._stop, self._record = Stream(), threading.Event(), record
        doubles: Any = (agent.calls, self.stream, NoUpgrades())
        settings = Settings(state=record.parent)
        shutdown = Shutdown(Services(settings.stopped_services), ours=lambda: False)
        self.handling = Handling(*doubles, Record(record), Removal(settings, None, self._stop.set), shutdown)
        of_this_process: Any = self
        fetching = Fetching(agent.calls, of_this_process, "r1", lambda: 1, SystemClock())
        threading.Thread(target=fetching.run, args=(self._stop,), daemon=True).start()

    def offered(self, commands: Sequence[Command]) -> None:
        if not self._stop.is_set():  # the stream of a process that ended is left open here
            self.handling.offered(commands)

    def answered(self) -> bool:
        """Whether the server has heard of all that was begun."""
        return self._record.exists() and not json.loads(self._record.read_text())["commands"]

    def stop(self) -> None:
        self._stop.set()
        self.handling.close()


def protected(server: Server) -> tuple[Agent, Management]:
    process_server, agent = register(server), Agent(server)
    agent.open_epoch()
    process_server.report(whole_epoch(agent.enrolment.machine, received=10, stored=10))
    agent.beat(epoch=1, hears_commands=True)
    process_server.close()
    api = server.admin()
    assert api.machine("db1").state.value == "protected"
    return agent, api


def resync(api: Management) -> None:
    api.transport.post("/v1/machines/db1/resync", None, Machine)


def test_commands_are_heard_over_a_kill_of_the_server_and_end_with_a_shutdown(server: Server, tmp_path: Path) -> None:
    agent, api = protected(server)
    hearing = Hearing(agent, tmp_path / "commands.json")
    resync(api)
    until(lambda: hearing.stream.resyncs == 1)

    refused = api.request_point("db1", PointRequest(name="n"))
    until(lambda: api.job(refused.id).state is JobState.FAILED)
    ended = api.job(refused.id)
    assert "no consistent recovery point yet" in ended.error
    assert "Wait until the copy is complete" in ended.remedy

    server.kill()
    server.start()
    resync(api)
    until(lambda: hearing.stream.resyncs == 2)
    assert server.process is not None

    process = server.process
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    log = (server.home / "server.log").read_text()
    assert "graceful shutdown exceeded" not in log, "an open stream or an idle connection held the shutdown up"
    server.process = None
    server.start()
    resync(api)
    until(lambda: hearing.stream.resyncs == 3)
    hearing.stop()
    for transport in (api, agent.calls):
        transport.close()


def test_what_was_asked_while_no_agent_listened_is_done_once_and_the_job_hears_of_it(
    server: Server, tmp_path: Path
) -> None:
    agent, api = protected(server)
    resync(api)
    proof = api.transport.post("/v1/machines/db1/proof", ProofRequest(), Job)
    api.transport.post(f"/v1/jobs/{proof.id}/cancel", None, Job)
    until(lambda: api.job(proof.id).state is JobState.CANCELLED)
    hearing = Hearing(agent, tmp_path / "commands.json")
    until(lambda: hearing.stream.resyncs == 1 and hearing.answered())
    hearing.stop()
    after = Hearing(agent, tmp_path / "commands.json")  # the next process of the agent
    resync(api)
    until(lambda: after.stream.resyncs and after.answered())
    assert (hearing.stream.resyncs, after.stream.resyncs) == (1, 1)
    after.stop()
    for transport in (api, agent.calls):
        transport.close()
