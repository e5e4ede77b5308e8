"""Who may hear of a script that checks a recovered machine, who may answer, and who may ask for such a check."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine

from farshore.api_types.users import Role
from farshore.catalog import guest_scripts
from farshore.catalog.tables import FailoverRow, GuestScriptRow
from farshore.configuration_server.identity import Kind

FAILOVER = "33333333-3333-4333-8333-333333333333"
ANOTHER = "44444444-4444-4444-8444-444444444444"
PATH = "/v1/machines/self/guest-scripts"
RESULT = {"hardware": FAILOVER, "status": 0, "output": "well\x1b"}


@pytest.fixture
def granted(office: Office) -> Office:
    """One run, of a machine whose test is up; another machine is beside it."""
    with office.services.catalog.writing() as tx:
        add_machine(tx, state="protected")
        add_machine(tx, id=ANOTHER, name="db2", hardware_id="hw-2")
        tx.add(FailoverRow(id=FAILOVER, machine=MACHINE, kind="test", state="running", site="qemu", request={},
                           requested=NOW))  # fmt: skip
        tx.flush()
        guest_scripts.add(tx, GuestScriptRow(id="s1", failover=FAILOVER, machine=MACHINE, hardware=FAILOVER, place=0,
                                             name="n", content="IyEK", digest="d", seconds=9, created=NOW))  # fmt: skip
    return office


def scripts(office: Office, machine: str, hardware: str) -> Any:
    return office.call("GET", f"{PATH}?hardware={hardware}", certificate=office.certificate(Kind.MACHINE, machine)).body


def test_the_machine_on_its_hardware_hears_of_it_and_answers_once(granted: Office) -> None:
    mine = granted.certificate(Kind.MACHINE, MACHINE)
    (one,) = scripts(granted, MACHINE, FAILOVER.upper())["scripts"]
    assert (one["id"], one["content"], one["seconds"]) == ("s1", "IyEK", 9)
    put = ("PUT", f"{PATH}/s1/result")
    assert granted.call(*put, {**RESULT, "output": "well"}, mine).body == {"id": "s1", "state": "succeeded"}
    again = granted.call(*put, {**RESULT, "output": "no", "status": 1}, mine)
    assert again.body == {"id": "s1", "state": "succeeded"}
    with granted.services.catalog.reading() as tx:
        assert guest_scripts.get(tx, "s1").output == "well"
    assert scripts(granted, MACHINE, FAILOVER) == {"scripts": []}


@pytest.mark.parametrize(("machine", "hardware"), [(MACHINE, "hw-1"), (ANOTHER, FAILOVER), (ANOTHER, "hw-2")])
def test_other_machines_and_the_source_hear_of_nothing_and_may_not_answer(
    granted: Office, machine: str, hardware: str
) -> None:
    assert scripts(granted, machine, hardware) == {"scripts": []}
    certificate = granted.certificate(Kind.MACHINE, machine)
    answer = granted.call("PUT", f"{PATH}/s1/result", {"hardware": hardware, "status": 0}, certificate)
    assert (answer.status, answer.code) == (404, "not-found")
    with granted.services.catalog.reading() as tx:
        assert guest_scripts.get(tx, "s1").state == "waiting"


@pytest.mark.parametrize("who", ["contributor", "operator", "process-server", "master-target"])
def test_nobody_but_machines_is_let_in(granted: Office, who: str) -> None:
    """What an operator or contributor may do is to name a script, not to read it here or to answer for a machine."""
    people = {role.value: role for role in Role}
    certificate = granted.user("ann", people[who]) if who in people else granted.certificate(Kind(who), MACHINE)
    assert granted.call("GET", f"{PATH}?hardware={FAILOVER}", certificate=certificate).status == 403
    assert granted.call("PUT", f"{PATH}/s1/result", {"hardware": FAILOVER, "status": 0}, certificate).status == 403


def test_a_reader_may_not_ask_for_a_check_and_nobody_may_bring_a_script(granted: Office) -> None:
    path = f"/v1/machines/{MACHINE}/failovers"
    wanted = {"kind": "test", "site": "qemu", "checks": [{"kind": "agent", "script": "orders"}]}
    assert granted.call("POST", path, wanted, granted.user("rea", Role.READER)).status == 403
    operator = granted.user("ann", Role.OPERATOR)
    assert granted.call("POST", path, wanted, operator).status in (200, 201, 202)
    for brought in ("../orders", "/bin/sh", "rm -rf /", ""):
        check = {"kind": "agent", "script": brought}
        assert granted.call("POST", path, {**wanted, "checks": [check]}, operator).status == 400, brought
    extra = {"kind": "agent", "script": "orders", "content": "IyEK"}
    assert granted.call("POST", path, {**wanted, "checks": [extra]}, operator).status == 400
    with_key = {"kind": "agent", "script": "orders", "key": "id", "port": 22}
    assert granted.call("POST", path, {**wanted, "checks": [with_key]}, operator).status == 400


def test_what_is_no_result_is_refused(granted: Office) -> None:
    mine = granted.certificate(Kind.MACHINE, MACHINE)
    for changed in ({"status": 1000}, {"hardware": "x" * 300}, {"more": 1}):
        assert granted.call("PUT", f"{PATH}/s1/result", {**RESULT, "output": "", **changed}, mine).status == 400
    assert granted.call("GET", PATH, certificate=mine).status == 400
