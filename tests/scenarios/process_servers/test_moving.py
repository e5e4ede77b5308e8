"""Two process servers and a real agent: machines move when one is drained, chosen or killed; the copy stays equal."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator

import pytest
from tests.crash.mobility.rig import Rig, churn, until, writing
from tests.loopdisks import loop_disk, require_root
from tests.scenarios.process_servers.second import Operator, SecondServer

pytestmark = pytest.mark.root
MIB = 1 << 20
FIRST, SECOND = "127.0.0.1", "second"


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    require_root()
    with loop_disk(192 * MIB, "ext4") as disk:
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
    assert "`farshore up` runs" in operator.run("process-server", "remove", FIRST, "--yes", status=2)


def test_an_operator_sends_a_machine_where_it_should_be(operator: Operator, second: SecondServer) -> None:
    epoch = operator.machine().epoch
    operator.run("process-server", "drain", FIRST, "--cancel")
    with writing(operator.rig.disk.folder, megabytes_a_second=6):
        for server in (FIRST, SECOND, FIRST, SECOND):
            operator.run("machine", "protect", operator.machine().name, "--process-server", server)
            assert operator.until_sent_to(server).epoch == epoch
    operator.rig.check("chosen")
    assert "machines send to second" in operator.run("process-server", "remove", SECOND, "--yes", status=2)


def test_a_server_that_dies_with_what_it_had_not_stored(operator: Operator, second: SecondServer) -> None:
    assert operator.machine().process_server == SECOND
    before = operator.machine().epoch
    operator.run("process-server", "limit", SECOND, "--bandwidth", "1 KiB/s")
    until(lambda: operator.server(SECOND)["rate"] == 1024, "the limit is not taken")
    time.sleep(2)  # until it has been told
    churn(operator.rig.disk.folder, 16, "tail")
    until(lambda: operator.server(SECOND)["spool_bytes"] > 15 * MIB, "the tail does not get into the spool")
    stored = operator.rig.vault().timeline().last(before)
    second.kill()
    kept = second.folder / "kept"
    shutil.copytree(second.spool, kept)
    shutil.rmtree(second.spool)
    churn(operator.rig.disk.folder, 4, "meanwhile")
    healed = operator.until_sent_to(FIRST)
    operator.rig.wait_consistent()
    operator.rig.check("healed")
    assert healed.process_server == FIRST
    assert _sent(operator) < 40 * MIB, "what is in the vault is not sent again"

    # Its disk is found again: what it had acknowledged still gets into the vault.
    kept.rename(second.spool)
    operator.run("process-server", "limit", SECOND, "--none")
    second.start()
    until(lambda: operator.server(SECOND)["spool_bytes"] == 0, "the spool is not stored")
    last = operator.rig.vault().timeline().last(before)
    assert last is not None
    assert stored is not None
    assert last > stored, "the old epoch has become longer"
    operator.rig.check("found-again")


def test_a_lost_server_is_removed(operator: Operator, second: SecondServer) -> None:
    operator.run("machine", "protect", operator.machine().name, "--process-server", FIRST)
    operator.until_sent_to(FIRST)
    second.kill()
    operator.run("process-server", "remove", SECOND, "--yes", "--force")
    assert [one["name"] for one in operator.json("process-server", "list")] == [FIRST]
    moves = operator.json("event", "list", "--kind", "machine.mov")
    assert any("second was chosen" in event["message"] for event in moves)
    assert any("second does not report" in event["message"] for event in moves)
    operator.rig.check("removed")


def _sent(operator: Operator) -> int:
    """Bytes that the agent's last copy sent; 0 where the last epoch was never healed."""
    lines = [json.loads(line) if line.startswith("{") else line for line in operator.rig.log.read_text().splitlines()]
    found = re.findall(r"Epoch is consistent.*?sent=(\d+)", "\n".join(map(str, lines)))
    return int(found[-1]) if found else 0
