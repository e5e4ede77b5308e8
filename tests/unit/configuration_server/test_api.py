"""What the API answers: enrolment, policies, points, failovers, problems."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

import pytest
from tests.unit.configuration_server.offices import Office, signing_request
from tests.unit.protection.catalogs import MACHINE, NOW, SECOND, add_machine, add_server, description

from farshore.api_types.commands import PointArguments
from farshore.api_types.machines import Heartbeat
from farshore.api_types.users import Role
from farshore.catalog import events, failovers, machines, points, secrets, sites, users
from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow, PointRow, SiteRow
from farshore.configuration_server.identity import Kind
from farshore.configuration_server.sites import sealed_as
from farshore.model.errors import WrongKey
from farshore.model.point import PointKind
from farshore.protection.commands import ask as ask_agent
from farshore.recovery import consoles
from farshore.sites.port import FailoverId, HasConsole


@pytest.fixture
def admin(office: Office) -> dict[str, object]:
    return office.user("admin", Role.CONTRIBUTOR)


def enrol(office: Office, token: str) -> object:
    body = {"token": token, "request": signing_request(), "description": description().model_dump(mode="json")}
    return office.call("POST", "/v1/enrolments", body)


def test_a_machine_enrols_once(office: Office, admin: dict[str, object]) -> None:
    made = office.call("POST", "/v1/enrolment-tokens", {"name": "db1"}, admin)
    assert made.body["server_url"] == "https://10.0.2.2:8443"
    first = enrol(office, made.body["token"])
    assert first.status == 201
    with office.services.catalog.reading() as tx:
        assert users.newest_expiry(tx, "machine", first.body["machine"]) > NOW
    again = enrol(office, made.body["token"])
    assert (again.status, again.code) == (401, "unauthenticated")
    assert "used already" in again.body["detail"]
    assert len(office.call("GET", "/v1/machines", certificate=admin).body) == 1
    listed = office.call("GET", "/v1/enrolment-tokens", certificate=admin).body
    assert made.body["token"] not in str(listed)


def test_a_bad_request_for_a_certificate_leaves_the_token_good(office: Office, admin: dict[str, object]) -> None:
    token = office.call("POST", "/v1/enrolment-tokens", {}, admin).body["token"]
    body = {"token": token, "request": "junk", "description": description().model_dump(mode="json")}
    assert office.call("POST", "/v1/enrolments", body).code == "malformed"
    assert office.call("GET", "/v1/machines", certificate=admin).body == []
    assert enrol(office, token).status == 201


def test_from_enrolment_to_an_epoch(office: Office, admin: dict[str, object]) -> None:
    token = office.call("POST", "/v1/enrolment-tokens", {}, admin).body["token"]
    machine = enrol(office, token).body["machine"]
    agent = office.certificate(Kind.MACHINE, machine)
    asked = {"run": "r1", "kind": "initial", "description": description().model_dump(mode="json")}
    none_yet = office.call("POST", "/v1/machines/self/epochs", asked, agent)
    assert (none_yet.status, none_yet.code, none_yet.headers["retry-after"]) == (503, "try-later", "2")
    server = office.certificate(Kind.PROCESS_SERVER, "22222222-2222-4222-8222-222222222222")
    given = office.call("POST", "/v1/process-servers/self", {"url": "https://10.0.2.2:9443", "version": "1"}, server)
    assert given.body["upkeep_key"] == "00" * 32
    assert office.call("POST", "/v1/machines/self/epochs", asked, agent).status == 503, "it takes no streams yet"
    report = {"url": "https://10.0.2.2:9443", "version": "1", "spool_bytes": 0, "spool_limit": 1 << 30}
    assert office.call("POST", "/v1/process-servers/self/report", report, server).body["closed"] == []
    grant = office.call("POST", "/v1/machines/self/epochs", asked, agent).body
    assert (grant["epoch"], grant["process_server"], grant["hash_key"]) == (1, "https://10.0.2.2:9443", f"{1000:064x}")
    stream = f"/v1/process-servers/self/streams/{machine}"
    assert office.call("GET", f"{stream}/1", certificate=server).body["kind"] == "initial"
    assert office.call("GET", f"{stream}/2", certificate=server).code == "not-found"
    office.call("POST", "/v1/machines/self/epochs", {**asked, "run": "r2"}, agent)
    fenced = office.call("GET", f"{stream}/1", certificate=server)
    assert (fenced.status, fenced.code) == (410, "fenced")
    beat = {"run": "r2", "version": "1", "epoch": 2}
    wanted = office.call("POST", "/v1/machines/self/heartbeat", beat, agent).body
    assert (wanted["protect"], wanted["process_server"]) == (True, "https://10.0.2.2:9443")
    late = office.call("POST", "/v1/machines/self/heartbeat", {**beat, "run": "r1", "epoch": 1}, agent).body
    assert (late["protect"], late["standby"]) == (False, True)
    # No process server takes an open stream for an instance that another one has replaced.
    assert office.call("GET", f"{stream}/2", certificate=server).body["kind"] == "initial"
    with office.services.catalog.writing() as tx:
        machines.runs_at(machines.get(tx, machine), "qemu", "recovered")
    fenced = office.call("GET", f"{stream}/2", certificate=server)
    assert (fenced.code, "runs at qemu on recovered" in fenced.body["detail"]) == ("fenced", True)


def test_a_deleted_machine_is_out(office: Office, admin: dict[str, object]) -> None:
    token = office.call("POST", "/v1/enrolment-tokens", {}, admin).body["token"]
    machine = enrol(office, token).body["machine"]
    agent = office.certificate(Kind.MACHINE, machine)
    assert office.call("DELETE", "/v1/machines/db1", certificate=admin).status == 204
    beat = {"run": "r1", "version": "1"}
    assert office.call("POST", "/v1/machines/self/heartbeat", beat, agent).status == 401


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x", "rpo_treshold": 5}, "rpo_treshold"),
        ({"name": "x", "rpo_threshold": 0}, "rpo_threshold"),
        ({"name": "a b"}, "name"),
        ({}, "name"),
    ],
)
def test_a_fault_in_a_body_names_its_field(
    office: Office, admin: dict[str, object], body: dict[str, object], field: str
) -> None:
    answer = office.call("POST", "/v1/policies", body, admin)
    assert (answer.status, answer.code) == (400, "malformed")
    assert answer.body["detail"].startswith(f"{field}:")
    assert answer.headers["content-type"] == "application/problem+json"


def test_junk_is_malformed_and_too_much_is_refused(office: Office, admin: dict[str, object]) -> None:
    assert office.call("POST", "/v1/policies", certificate=admin, raw=b"{").code == "malformed"
    huge = b'{"name": "' + b"x" * (8 << 20) + b'"}'
    answer = office.call("POST", "/v1/policies", certificate=admin, raw=huge)
    assert "64 KiB" in answer.body["detail"]
    assert office.call("GET", "/v1/nothing", certificate=admin).code == "not-found"
    assert office.call("PUT", "/v1/policies", {}, admin).code == "unsupported"


def test_a_defect_shows_no_trace(office: Office, admin: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("farshore.catalog.policies.every", fail)
    answer = office.call("GET", "/v1/policies", certificate=admin)
    assert (answer.status, answer.code) == (500, "internal")
    assert "secret detail" not in str(answer.body)


def test_policies_live_and_die(office: Office, admin: dict[str, object]) -> None:
    made = office.call("POST", "/v1/policies", {"name": "gold", "rpo_threshold": 60}, admin)
    assert (made.status, made.body["hot_window"]) == (201, 86400)
    assert office.call("POST", "/v1/policies", {"name": "gold"}, admin).code == "wrong-state"
    changed = office.call("PATCH", "/v1/policies/gold", {"keep_daily": 30}, admin).body
    assert (changed["rpo_threshold"], changed["keep_daily"]) == (60, 30)
    back = office.call("GET", "/v1/policies/gold-failback", certificate=admin).body
    assert (changed["failback"], back["reverses"], back["failback"]) == ("gold-failback", "gold", "")
    assert (back["rpo_threshold"], back["keep_daily"]) == (60, 30), "made by itself, and it follows"
    assert office.call("DELETE", "/v1/policies/gold-failback", certificate=admin).code == "wrong-state"
    token = {"name": "x", "valid_seconds": 60, "policy": "gold-failback", "protect": True}
    assert office.call("POST", "/v1/enrolment-tokens", token, admin).code == "refused"
    assert office.call("DELETE", "/v1/policies/gold", certificate=admin).status == 204
    assert office.call("GET", "/v1/policies/gold", certificate=admin).code == "not-found"
    audit = office.call("GET", "/v1/events?actor=user/&kind=policy", certificate=admin).body
    assert [event["kind"] for event in audit] == ["policy.created", "policy.changed", "policy.deleted"]
    assert audit[1]["detail"] == {"keep_daily": {"old": 14, "new": 30}}


@pytest.mark.parametrize(
    ("premium", "warned", "refused"), [(None, False, False), (False, True, False), (True, True, True)]
)
def test_retention_is_held_against_the_storage_account(
    office: Office, admin: dict[str, object], monkeypatch: pytest.MonkeyPatch,
    premium: bool | None, warned: bool, refused: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr("farshore.configuration_server.api.policies.is_premium", lambda _url: premium)
    hours = 24 if premium else 96
    made = office.call("POST", "/v1/policies", {"name": "gold", "hot_window": hours * 3600}, admin)
    assert (made.status, bool(made.body["warnings"])) == (201, warned)
    longer = office.call("PATCH", "/v1/policies/gold", {"hot_window": 97 * 3600}, admin)
    assert (longer.status == 200, bool(longer.body.get("warnings"))) == (not refused, warned and not refused)
    kept = office.call("GET", "/v1/policies/gold", certificate=admin).body
    assert (kept["hot_window"], kept["warnings"]) == ((hours if refused else 97) * 3600, [])
    assert office.call("PATCH", "/v1/policies/gold", {"rpo_threshold": 60}, admin).body["warnings"] == []


def test_events_are_listed_by_a_cursor_and_the_newest_on_request(office: Office, admin: dict[str, object]) -> None:
    def burst(tx: Transaction) -> None:
        for number in range(2500):
            events.record(tx, time=NOW, kind="burst", actor="server", subject="s", message=str(number))

    office.services.catalog.write(burst)
    told: list[str] = []
    after = 0
    while page := office.call("GET", f"/v1/events?kind=burst&limit=1000&after={after}", certificate=admin).body:
        told += [one["message"] for one in page]
        after = page[-1]["id"]
    assert told == [str(number) for number in range(2500)]
    newest = office.call("GET", "/v1/events?kind=burst&limit=2&newest=true", certificate=admin).body
    assert [one["message"] for one in newest] == ["2498", "2499"]


def test_jobs_of_a_server_that_is_gone_go_on_and_the_log_says_who_asked(
    office: Office, admin: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"executor": "server-1"}
    assert office.call("POST", "/v1/jobs/recovery", asked, admin).code == "not-found"
    left = office.jobs.start("point", {"subject": MACHINE})
    monkeypatch.setattr(office.jobs, "recover", lambda executor: [left] if executor == "server-1" else [])
    answer = office.call("POST", "/v1/jobs/recovery", asked, admin)
    assert [job["id"] for job in answer.body["jobs"]] == [left.id]
    (told,) = office.call("GET", "/v1/events?kind=job", certificate=admin).body
    assert (told["kind"], told["actor"], told["detail"]) == ("job.recovered", "user/admin", {"jobs": [left.id]})


def protected(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        add_server(tx)
        add_machine(tx, state="protected")


def test_protection_is_changed_and_ended(office: Office, admin: dict[str, object]) -> None:
    protected(office)
    assert office.call("PUT", "/v1/machines/db1/protection", {"exclude_disks": [7]}, admin).code == "not-found"
    refused = office.call("PUT", "/v1/machines/db1/protection", {"exclude_disks": [0]}, admin)
    assert (refused.code, "boots from disk 0" in refused.body["detail"]) == ("refused", True)
    without = {"exclude_disks": [0], "exclude_boot_disk": True}
    machine = office.call("PUT", "/v1/machines/db1/protection", without, admin).body
    assert machine["description"]["disks"][0]["excluded"]
    assert any(
        found["severity"] == "error" for found in office.call("GET", "/v1/machines/db1/check", certificate=admin).body
    )
    assert office.call("DELETE", "/v1/machines/db1/protection", certificate=admin).status == 204
    assert office.call("GET", "/v1/machines/db1", certificate=admin).body["state"] == "unprotected"
    assert office.call("POST", "/v1/machines/db1/points", {}, admin).code == "wrong-state"
    office.call("PUT", "/v1/machines/db1/protection", {}, admin)
    assert office.call("GET", "/v1/machines/db1", certificate=admin).body["state"] == "enrolled"


def test_more_disks_than_can_be_protected_are_refused_before_anything_begins(
    office: Office, admin: dict[str, object]
) -> None:
    protected(office)
    with office.services.catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        row.protect = False
        disk = row.description["disks"][0]
        disks = [{**disk, "number": number, "name": f"vd{number}", "boot": not number} for number in range(66)]
        row.description = {**row.description, "disks": disks}
    for excluded, left in ([], 66), ([65], 65):
        refused = office.call("PUT", "/v1/machines/db1/protection", {"exclude_disks": excluded}, admin)
        assert (refused.code, f"{left} disks" in refused.body["detail"]) == ("refused", True)
        assert "--exclude-disk" in refused.body["remedy"]
    with office.services.catalog.reading() as tx:
        assert not machines.get(tx, MACHINE).protect
        assert machines.get(tx, MACHINE).exclude_disks == []
    assert office.call("PUT", "/v1/machines/db1/protection", {"exclude_disks": [64, 65]}, admin).status == 200


@pytest.mark.parametrize("state", ["running", "superseded", "committed"])
def test_what_runs_elsewhere_is_not_forgotten_nor_doubled(office: Office, admin: dict[str, object], state: str) -> None:
    protected(office)
    with office.services.catalog.writing() as tx:
        failovers.add(tx, FailoverRow(id="f", machine=MACHINE, kind="failover", state=state, site="qemu", request={},
                                      requested=NOW))  # fmt: skip
        machines.get(tx, MACHINE).state = "committed"
    for before in ("committed", "unprotected"):
        with office.services.catalog.writing() as tx:
            machines.get(tx, MACHINE).state = before
        refused = [office.call("DELETE", "/v1/machines/db1", certificate=admin)]
        if before == "committed":
            refused.append(office.call("DELETE", "/v1/machines/db1/protection", certificate=admin))
        else:
            refused.append(office.call("PUT", "/v1/machines/db1/protection", {}, admin))
        for answer in refused:
            assert (answer.code, f"is {state} at qemu" in answer.body["detail"]) == ("wrong-state", True)


def test_a_failback_needs_a_machine_that_is_away_and_a_site_at_home(office: Office, admin: dict[str, object]) -> None:
    protected(office)
    ask = partial(office.call, "POST", "/v1/machines/db1/failbacks", certificate=admin)
    at_home = ask({"kind": "failover", "site": "qemu"})
    assert (at_home.code, "where it was enrolled" in at_home.body["detail"]) == ("wrong-state", True)
    with office.services.catalog.writing() as tx:
        sites.add(tx, SiteRow(id="home", kind="qemu", settings={"disks": "written"}))
        row = machines.get(tx, MACHINE)
        machines.runs_at(row, "qemu", "f")
        machines.begin_line(row, 1, 40)
    assert office.call("GET", "/v1/machines/db1", certificate=admin).body["line"] == "1:40"
    assert ask({"kind": "failover"}).code == "malformed"
    assert ask({"kind": "failover", "site": "qemu"}).code == "wrong-state"
    assert ask({"kind": "failover", "site": "nowhere"}).code == "not-found"
    assert ask({"kind": "failover", "site": "home"}).status == 202
    assert ask({"kind": "test", "site": "home"}).status == 202
    found = office.call("GET", "/v1/failovers", certificate=admin).body
    assert {(one["kind"], one["direction"], one["site"]) for one in found} == {
        ("failover", "home", "home"),
        ("test", "home", "home"),
    }


def test_a_console_is_read_from_its_end_also_when_the_machine_is_gone(office: Office, admin: dict[str, object]) -> None:
    protected(office)
    with office.services.catalog.writing() as tx:
        failovers.add(tx, FailoverRow(id="f", machine=MACHINE, kind="test", state="failed", site="qemu", request={},
                                      requested=NOW))  # fmt: skip
    read = partial(office.call, "GET", certificate=admin)
    assert read("/v1/failovers/f/console").body == {"text": "", "size": 0}
    site = office.services.recovery.site("qemu")
    assert isinstance(site, HasConsole)
    console = site.console(FailoverId("f"))
    console.parent.mkdir(parents=True)
    console.write_bytes(b"GRUB loading. Kernel panic \xff")
    assert read("/v1/failovers/f/console?most=7").body == {"text": "panic \ufffd", "size": 28}
    consoles.keep(office.services.recovery, "f", site)
    shutil.rmtree(console.parent)
    assert read("/v1/failovers/f/console").body["text"].startswith("GRUB loading.")


def test_sites_are_added_checked_and_removed(office: Office, admin: dict[str, object]) -> None:
    protected(office)
    call = partial(office.call, certificate=admin)
    assert [one["id"] for one in call("GET", "/v1/sites").body] == ["qemu"]
    lab = {"id": "lab", "kind": "qemu", "settings": {"accelerator": "tcg"}}
    assert call("POST", "/v1/sites", lab).status == 201
    assert call("POST", "/v1/sites", lab).code == "wrong-state"
    assert call("POST", "/v1/sites", {**lab, "id": "a", "secret": "s3cret"}).code == "malformed"
    assert call("POST", "/v1/sites", {**lab, "id": "a", "kind": "moon"}).code == "not-found"
    assert call("POST", "/v1/sites/lab/check").body["found"]["accelerator"] == "tcg"
    assert call("POST", "/v1/machines/db1/failovers", {"kind": "test", "site": "moon"}).code == "not-found"
    assert call("POST", "/v1/machines/db1/failovers", {"kind": "test", "site": "lab"}).status == 202
    assert call("GET", "/v1/sites/lab").body["failovers"] == 1
    assert call("DELETE", "/v1/sites/lab").code == "wrong-state"
    with office.services.catalog.writing() as tx:
        (row,) = failovers.page(tx, limit=1)
        row.state = "cleaned-up"
    assert call("DELETE", "/v1/sites/lab").status == 204


def test_a_secret_of_a_site_is_sealed_and_never_answered(office: Office, admin: dict[str, object]) -> None:
    with office.services.catalog.writing() as tx:
        row = SiteRow(id="cloud", kind="qemu")
        row.secret = office.services.sealer.seal(sealed_as(row), b"s3cret")
        sites.add(tx, row)
    shown = office.call("GET", "/v1/sites/cloud", certificate=admin).body
    assert (shown["has_secret"], "s3cret" in str(shown)) == (True, False)
    assert office.services.recovery.site("cloud").name == "cloud"
    with office.services.catalog.writing() as tx:
        sites.get(tx, "cloud").secret = office.services.sealer.seal("site/other", b"s3cret")
    with pytest.raises(WrongKey):
        office.services.recovery.site("cloud")


def test_points_and_failovers_are_jobs(office: Office, admin: dict[str, object]) -> None:
    protected(office)
    job = office.call("POST", "/v1/machines/db1/points", {"name": "before", "kind": "app-consistent"}, admin)
    assert (job.status, job.body["kind"], job.body["subject"]) == (202, "point", MACHINE)
    asked = {"kind": "test", "point": {"position": "1:5"}, "forward": {"2222": 22}}
    test = office.call("POST", "/v1/machines/db1/failovers", asked, admin).body
    (found,) = office.call("GET", "/v1/failovers?machine=db1", certificate=admin).body
    assert (found["job"], found["state"], found["forward"]) == (test["id"], "requested", {"2222": 22})
    assert office.call("POST", f"/v1/failovers/{found['id']}/commit", certificate=admin).code == "wrong-state"
    cleanup = office.call("POST", f"/v1/failovers/{found['id']}/cleanup", certificate=admin)
    assert cleanup.body["kind"] == "cleanup"
    assert [kind for kind, _ in office.jobs.started] == ["point", "test-failover", "cleanup"]
    assert office.call("POST", "/v1/failovers/nothing/cleanup", certificate=admin).code == "not-found"


def test_a_name_stands_for_one_point(office: Office, admin: dict[str, object]) -> None:
    def ask(name: str) -> str | int:
        answer = office.call("POST", "/v1/machines/db1/points", {"name": name}, admin)
        return answer.status if answer.status == 202 else answer.code

    protected(office)
    with office.services.catalog.writing() as tx:
        stored = PointRow(id="1", machine=MACHINE, epoch=1, sequence=7, time=1, kind="crash-consistent", name="before")
        points.record(tx, stored)
        ask_agent(tx, "waiting", MACHINE, PointArguments(kind=PointKind.CRASH_CONSISTENT, name="soon"), 1)
    assert [ask("before"), ask("soon"), ask("after"), ask(""), ask("")] == ["refused", "refused", 202, 202, 202]


def test_the_ssh_key_of_a_push_is_sealed(office: Office, admin: dict[str, object]) -> None:
    body = {"host": "192.0.2.1", "private_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret"}
    assert office.call("POST", "/v1/machines", body, admin).status == 202
    ((_, request),) = office.jobs.started
    assert "secret\n" not in str(request)
    assert "PRIVATE KEY" not in str(request)
    assert request["request"]["server_url"] == "https://10.0.2.2:8443"
    with office.services.catalog.reading() as tx:
        sealed = secrets.get(tx, request["secret"])
        told = [row.message + str(row.detail) for row in events.listed(tx)]
    assert b"PRIVATE KEY" not in sealed
    assert office.services.sealer.open(request["secret"], sealed).decode() == body["private_key"]
    assert not any("PRIVATE KEY" in line for line in told)


def test_the_last_contributor_stays(office: Office, admin: dict[str, object]) -> None:
    made = office.call("POST", "/v1/users", {"name": "bob", "role": "operator"}, admin).body
    assert "PRIVATE KEY" in made["key"]
    own = office.call("POST", "/v1/users", {"name": "eve", "request": signing_request()}, admin).body
    assert own["key"] == ""
    assert office.call("DELETE", "/v1/users/admin", certificate=admin).code == "wrong-state"
    assert office.call("DELETE", "/v1/users/bob", certificate=admin).status == 204


def test_the_newest_lag_is_shown_and_that_of_the_silent_is_not(office: Office, admin: dict[str, object]) -> None:
    beat = Heartbeat(run="r", version="1", lag={"network": 0.5}).model_dump(mode="json")
    with office.services.catalog.writing() as tx:
        server = add_server(tx).id
        add_machine(tx, state="protected", newest_point_time=NOW - 3 * SECOND, process_server=server)
        row = machines.get(tx, MACHINE)
        row.heartbeat, row.last_seen, row.lag = beat, NOW, {"spool": 0.25}

    def shown() -> tuple[float, dict[str, float]]:
        body = office.call("GET", f"/v1/machines/{MACHINE}", certificate=admin).body
        return body["rpo_seconds"], body["lag"]

    assert shown() == (3.0, {"network": 0.5, "spool": 0.25})
    office.clock.time += 20 * SECOND
    assert shown() == (23.0, {"network": 0.5}), "the process server is silent"
    with office.services.catalog.writing() as tx:
        add_server(tx, now=office.clock.time + 20 * SECOND)
    office.clock.time += 20 * SECOND
    assert shown() == (43.0, {"spool": 0.25}), "the agent is silent"


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ({"members": [{"machine": "db1"}, {"machine": MACHINE}]}, "malformed", "The machine db1 occurs twice"),
        ({"members": [{"machine": "db1"}, {"machine": "db9"}]}, "not-found", "db9"),
        ({"members": [{"machine": "db1"}], "site": "moon"}, "not-found", "moon"),
        ({"members": [{"machine": "db1"}], "point": {"id": "p"}}, "malformed", "belongs to a single machine"),
        (
            {"members": [{"machine": "db1", "forward": {80: 80}}, {"machine": "web1", "forward": {80: 81}}]},
            "malformed",
            "The host's port 80 occurs twice",
        ),
        ({"members": []}, "malformed", "members"),
        ({"members": [{"machine": "db1"}], "at_once": 17}, "malformed", "at_once"),
    ],
)
def test_several_machines_are_asked_for_once_each_with_a_point_that_each_can_have(
    office: Office, admin: dict[str, object], more: dict[str, Any], code: str, words: str
) -> None:
    protected(office)
    answer = office.call("POST", "/v1/failovers", {"kind": "test", **more}, admin)
    assert (answer.code, words in answer.body["detail"]) == (code, True), answer.body
    assert office.call("GET", "/v1/failovers", certificate=admin).body == []
