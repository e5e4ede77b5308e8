"""Two process servers and a real agent: machines move when one is drained, chosen or killed; the copy stays equal."""

from __future__ import annotations

import functools
import re
import shutil
import time
from collections.abc import Iterator

import pytest
from tests.crash.mobility.rig import Rig, churn, writing
from tests.loopdisks import loop_disk, require_data_mode
from tests.scenarios.process_servers.second import Operator, SecondServer
from tests.waiting import until

from farshore.model.identifiers import Epoch

pytestmark = pytest.mark.root
MIB = 1 << 20
FIRST, SECOND = "127.0.0.1", "second"


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    require_data_mode()
    with pytest.MonkeyPatch.context() as environment, loop_disk(192 * MIB, "ext4") as disk:
        environment.setenv("FARSHORE_GIVE_UP_PROCESS_SERVER_AFTER", "45")
        rig = Rig(tmp_path_factory.mktemp("installation"), disk)
        try:
            rig.up()
            rig.enrol()
            churn(disk.folder, 64, "before")
            rig.start_agent()
            rig.wait_consistent()
            yield Operator(rig)
        finally:
            rig.close()


@pytest.fixture(scope="module")
def second(operator: Operator) -> Iterator[SecondServer]:
    made = SecondServer(operator, operator.rig.home / SECOND, SECOND)
    made.enrol()
    made.start()
    yield made
    made.kill()


def test_a_drained_server_hands_its_machines_over_within_the_epoch(operator: Operator, second: SecondServer) -> None:
    epoch = operator.machine().epoch
    assert operator.machine().process_server == FIRST
    with writing(operator.rig.disk.folder, megabytes_a_second=6):
        time.sleep(1)
        operator.run("process-server", "drain", FIRST)
        assert operator.until_sent_to(SECOND).epoch == epoch
    until(lambda: operator.server(FIRST)["standing"] == "drained", "the first server is never drained")
    operator.rig.check("drained")
    assert "is run by `farshore up`" in operator.run("process-server", "remove", FIRST, "--yes", status=2)


def test_an_operator_sends_a_machine_where_it_should_be(operator: Operator, second: SecondServer) -> None:
    epoch = operator.machine().epoch
    operator.run("process-server", "drain", FIRST, "--cancel")
    with writing(operator.rig.disk.folder, megabytes_a_second=6):
        for server in (FIRST, SECOND):
            operator.run("machine", "protect", operator.machine().name, "--process-server", server)
            assert operator.until_sent_to(server).epoch == epoch
    operator.rig.check("chosen")
    assert "machines send to second" in operator.run("process-server", "remove", SECOND, "--yes", status=2)


def test_a_server_that_dies_costs_no_new_epoch(operator: Operator, second: SecondServer) -> None:
    epoch = operator.machine().epoch
    stored = unstored(operator, megabytes=8)
    second.kill()
    kept = second.folder / "kept"
    shutil.copytree(second.spool, kept)
    shutil.rmtree(second.spool)
    churn(operator.rig.disk.folder, 4, "meanwhile")
    healed = operator.until_sent_to(FIRST)
    assert (healed.process_server, healed.epoch) == (FIRST, epoch)
    operator.rig.check("healed")

    # Its disk is found again: what it had acknowledged still gets into the vault, beside what was sent once more.
    kept.rename(second.spool)
    operator.run("process-server", "limit", SECOND, "--none")
    second.start()
    until(lambda: operator.server(SECOND)["spool_bytes"] == 0, "the spool is not stored")
    assert operator.until_sent_to(SECOND).epoch == epoch
    assert (operator.rig.vault().stored.timeline().last(Epoch(epoch)) or 0) > stored
    operator.rig.check("found-again")


def test_a_server_that_dies_with_more_than_the_agent_kept_costs_a_resync(
    operator: Operator, second: SecondServer
) -> None:
    before = operator.machine().epoch
    unstored(operator, megabytes=32)
    second.kill()
    shutil.rmtree(second.spool)
    assert operator.until_sent_to(FIRST).process_server == FIRST
    operator.rig.wait_consistent(after_epoch=before)
    operator.rig.check("resynced")
    assert 24 * MIB < sent(operator) < 56 * MIB, "what is in the vault is not sent again"


def test_a_lost_server_is_removed(operator: Operator, second: SecondServer) -> None:
    operator.run("process-server", "remove", SECOND, "--yes", "--force")
    assert [one["name"] for one in operator.json("process-server", "list")] == [FIRST]
    moves = [event["message"] for event in operator.json("event", "list", "--kind", "machine.mov")]
    for reason in ("drained", "second was chosen", "second does not report"):
        assert any(reason in message for message in moves), moves
    operator.rig.check("removed")


def unstored(operator: Operator, *, megabytes: int) -> int:
    """Have so much acknowledged by the second server and not stored; the last sequence that is."""
    shown = operator.machine()
    assert shown.process_server == SECOND
    operator.run("process-server", "limit", SECOND, "--bandwidth", "1 KiB/s")
    until(lambda: operator.server(SECOND)["rate"] == 1024, "the limit is not taken")
    for _ in range(2):  # the limit comes with the answer to a report
        seen = operator.server(SECOND)["last_seen"]
        until(functools.partial(_reported_since, operator, seen), "a report")
    churn(operator.rig.disk.folder, megabytes, "tail")
    until(lambda: operator.server(SECOND)["spool_bytes"] > megabytes * MIB, "the tail does not get into the spool")
    return int(operator.rig.vault().stored.timeline().last(Epoch(shown.epoch)) or 0)


def _reported_since(operator: Operator, seen: str) -> bool:
    return str(operator.server(SECOND)["last_seen"]) > seen


def sent(operator: Operator) -> int:
    """Bytes that the agent's last copy sent."""
    found = re.findall(r"Epoch is consistent.*?sent=(\d+)", operator.rig.log.read_text())
    return int(found[-1])
