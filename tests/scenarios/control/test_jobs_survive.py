"""A job outlives SIGKILL of the server at every stage, and does nothing twice."""

from __future__ import annotations

import time

import pytest
from tests.scenarios.control.servers import Agent, Server, register, whole_epoch
from tests.waiting import until

from farshore.api_types.jobs import Job
from farshore.api_types.machines import FormerResult
from farshore.api_types.points import PointRequest
from farshore.client.management import Management
from farshore.model.errors import Refused
from farshore.model.states import JobState


def states(job: Job) -> list[str]:
    return [step.state.value for step in job.steps]


def test_a_point_is_cut_once_though_the_server_dies_twice(server: Server) -> None:
    process_server = register(server)
    agent = Agent(server)
    machine = agent.enrolment.machine
    grant = agent.open_epoch()
    process_server.report(whole_epoch(machine, received=10, stored=10))
    api: Management = server.admin()
    assert api.machine("db1").state.value == "protected"

    job = api.request_point("db1", PointRequest(name="before the kill"))
    until(lambda: states(api.job(job.id)) == ["succeeded", "running", "queued"])

    server.kill()
    server.start()
    commands = agent.beat(epoch=grant.epoch).commands
    assert [(command.id, command.name) for command in commands] == [(job.id, "before the kill")]
    done = FormerResult(id=job.id, epoch=1, sequence=12, time=time.time_ns())
    assert agent.beat(epoch=grant.epoch, results=[done]).commands == []
    until(lambda: states(api.job(job.id)) == ["succeeded", "succeeded", "running"])

    server.kill()
    server.start()
    assert agent.beat(epoch=grant.epoch).commands == [], "the agent is not asked again"
    until(lambda: api.job(job.id).state is JobState.RUNNING)
    process_server.report(whole_epoch(machine, received=12, stored=12))
    until(lambda: api.job(job.id).state is JobState.SUCCEEDED)
    assert api.job(job.id).result["sequence"] == 12
    assert api.job(job.id).fraction == 1

    refused = api.request_point("db1", PointRequest())
    until(lambda: agent.beat(epoch=1).commands != [])
    agent.beat(epoch=1, results=[FormerResult(id=refused.id, error="the file system would not freeze")])
    until(lambda: api.job(refused.id).state is JobState.FAILED)
    ended = api.job(refused.id)
    assert "would not freeze" in ended.error
    assert ended.remedy
    assert states(ended) == ["succeeded", "failed", "cancelled"]
    with pytest.raises(Refused, match="has already failed"):
        api.transport.post(f"/v1/jobs/{refused.id}/cancel", None, Job)
    for transport in (api, agent.calls, process_server):
        transport.close()
