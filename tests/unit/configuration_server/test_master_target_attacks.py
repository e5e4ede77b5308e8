"""A master target that is in somebody else's hands, and somebody without one: what its door gives them."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.configuration_server.offices import Office, shown, signing_request
from tests.unit.protection.catalogs import MACHINE, NOW, SECOND, add_machine

from farshore.api_types.body import CONTROL
from farshore.api_types.users import Role
from farshore.catalog import epochs, failovers, key_grants, master_targets, tokens
from farshore.catalog.tables import ErrandRow, FailoverRow, MasterTargetRow
from farshore.configuration_server.identity import Kind
from farshore.configuration_server.master_targets import MasterTargets
from farshore.delivery.in_place import HomeOrder
from farshore.model.errors import Cancelled, TryLater
from farshore.model.home_task import DiskPlace, Errand
from farshore.protection import errands

SELF = "/v1/master-targets/self"
MINE, OTHER = "44444444-4444-4444-8444-444444444444", "55555555-5555-4555-8555-555555555555"
SECRET = "66666666-6666-4666-8666-666666666666"
"""A machine that no errand is about."""
FAILOVER = "77777777-7777-4777-8777-777777777777"
REPORT = {"version": "1", "host": "h", "holds": []}


class Court:
    """An installation, a master target that has an errand for a machine, and one that has none and is hostile."""

    def __init__(self, office: Office) -> None:
        self.office, self.catalog = office, office.services.catalog
        with self.catalog.writing() as tx:
            add_machine(tx)
            add_machine(tx, id=SECRET, name="secret")
            for number, name in ((MINE, "mine"), (OTHER, "other")):
                master_targets.invite(tx, MasterTargetRow(id=number, name=name, registered=1))
        self.mine, self.other = (office.certificate(Kind.MASTER_TARGET, one) for one in (MINE, OTHER))
        self.admin = office.user("admin", Role.CONTRIBUTOR)

    def ask(self, number: str = "e1") -> None:
        wanted = ErrandRow(
            id=number, failover=FAILOVER, master_target=MINE, machine=MACHINE, errand="follow", position="",
            created=NOW, places=[{"disk": 0, "path": "/dev/sdb", "image": ""}],
        )  # fmt: skip
        with self.catalog.writing() as tx:
            errands.ask(tx, wanted)

    def post(self, path: str, body: Any, certificate: Any) -> Any:
        return self.office.call("POST", f"{SELF}{path}", body, certificate)

    def keys(self, machine: str, certificate: Any) -> Any:
        return self.office.call("GET", f"{SELF}/machines/{machine}/keys", None, certificate)

    def row(self) -> tuple[str, str, float, Any]:
        with self.catalog.reading() as tx:
            found = master_targets.errand(tx, "e1")
            assert found is not None
            return found.state, found.run, found.fraction, found.result


@pytest.fixture
def court(office: Office) -> Court:
    return Court(office)


@pytest.fixture
def tokens_of(court: Court) -> Any:
    def made(**values: Any) -> dict[str, Any]:
        answer = court.office.call("POST", "/v1/master-targets", {"name": "new", **values}, court.admin)
        return dict(answer.body)

    return made


def test_anothers_errand_is_neither_seen_nor_begun_nor_spoken_for(court: Court) -> None:
    court.ask()
    assert court.post("/report", REPORT, court.other).body["errands"] == []
    assert court.post("/errands/e1", {"run": "r9"}, court.other).status == 404
    assert court.post("/errands/e1", {"run": "r1"}, court.mine).body["machine"] == MACHINE
    before = court.row()
    said = {"run": "r1", "fraction": 1.0, "detail": "done"}
    assert court.post("/errands/e1/progress", said, court.other).body == {"wanted": False}
    result = court.office.call("PUT", f"{SELF}/errands/e1/result", {"run": "r1"}, court.other)
    assert result.body == {"wanted": False}
    assert court.row() == before
    # A guess at an errand that there is none of reads the same.
    assert court.post("/errands/e2", {"run": "r9"}, court.other).code == "not-found"


def test_keys_are_those_of_ones_own_errand_and_of_its_time(court: Court) -> None:
    assert court.keys(MACHINE, court.mine).code == "forbidden"
    court.ask()
    assert court.keys(MACHINE, court.mine).status == 200
    for machine, certificate in ((MACHINE, court.other), (SECRET, court.mine), ("db1", court.other)):
        answer = court.keys(machine, certificate)
        assert (answer.status, "key" in answer.body) == (403, False), machine
    court.post("/errands/e1", {"run": "r1"}, court.mine)
    court.office.call("PUT", f"{SELF}/errands/e1/result", {"run": "r1"}, court.mine)
    assert court.keys(MACHINE, court.mine).code == "forbidden", "it has ended"
    with court.catalog.writing() as tx:
        master_targets.drop_errand(tx, FAILOVER)
    court.ask("e2")
    assert court.keys(MACHINE, court.mine).status == 200
    with court.catalog.writing() as tx:
        master_targets.drop_errand(tx, FAILOVER)
    assert court.keys(MACHINE, court.mine).code == "forbidden", "the failback was cancelled"
    with court.catalog.reading() as tx:
        assert (key_grants.machine_names(tx, MINE), key_grants.machine_names(tx, OTHER)) == (["db1"], [])


@pytest.mark.parametrize("path", ["../secret", "..%2f..%2fmachines%2fsecret", "%2e%2e", "a%00b", "x" * 300, "db1%0a"])
def test_names_in_paths_lead_nowhere(court: Court, path: str) -> None:
    court.ask()
    answers = [court.keys(path, court.mine), court.post(f"/errands/{path}", {"run": "r"}, court.mine)]
    for answer in answers:
        assert answer.status in (400, 404, 405, 422), answer
        assert "key" not in (answer.body or {})
    assert court.row()[0] == "waiting"


@pytest.mark.parametrize("field", ["code", "message", "remedy"])
def test_a_result_that_bears_control_codes_is_refused_whole(court: Court, field: str) -> None:
    court.ask()
    court.post("/errands/e1", {"run": "r1"}, court.mine)
    failure = {"code": "refused", "message": "no", "remedy": "none", field: "\x1b]0;owned\x07\x9b2J"}
    answer = court.office.call("PUT", f"{SELF}/errands/e1/result", {"run": "r1", "failure": failure}, court.mine)
    assert answer.status == 400, answer
    for detail in ("\x1b[2J", "\x00", "\ud800"):
        assert (
            court.post("/errands/e1/progress", {"run": "r1", "fraction": 0, "detail": detail}, court.mine).status == 400
        )
    said = {"run": "r1", "fraction": 0.5, "detail": "line\none\ttwo" + "x" * 5000}
    assert court.post("/errands/e1/progress", said, court.mine).status == 200
    with court.catalog.reading() as tx:
        found = master_targets.errand(tx, "e1")
        assert found is not None
        assert (found.state, "\n" in found.detail, len(found.detail)) == ("begun", False, 200)
        assert not CONTROL.search(found.detail)


@pytest.mark.parametrize(
    "body",
    [
        {"run": "r1", "written": -1}, {"run": "r1", "written": 1 << 63}, {"run": "r1", "written": 1e400},
        {"run": "r1\n"}, {"run": "r" * 201}, {"run": "r1", "state": "ended"}, {"run": None}, [], "x",
    ],
)  # fmt: skip
def test_results_that_are_none_change_nothing(court: Court, body: Any) -> None:
    court.ask()
    court.post("/errands/e1", {"run": "r1"}, court.mine)
    before = court.row()
    assert court.office.call("PUT", f"{SELF}/errands/e1/result", body, court.mine).status in (400, 422)
    assert court.row() == before


def test_it_cannot_say_that_the_user_has_cancelled(court: Court) -> None:
    order = HomeOrder(Errand.FOLLOW, FAILOVER, MACHINE, (DiskPlace(0, "/dev/sdb"),), MINE)
    said = {"code": "cancelled", "message": "It was cancelled."}

    def lies(_seconds: float) -> None:
        (number,) = court.post("/report", REPORT, court.mine).body["errands"]
        court.post(f"/errands/{number}", {"run": "r1"}, court.mine)
        court.office.call("PUT", f"{SELF}/errands/{number}/result", {"run": "r1", "failure": said}, court.mine)

    with pytest.raises(TryLater, match="It was cancelled") as raised:
        MasterTargets(court.catalog, court.office.clock, lies).perform(order, lambda _done, _words: None)
    assert not isinstance(raised.value, Cancelled)


def test_what_it_holds_tells_nothing_of_others(court: Court) -> None:
    """A failback's id is random, and all that it hears is whether to keep a record of that name."""
    wanted = FailoverRow(
        id=FAILOVER, machine=SECRET, kind="failover", state="working", site="home", request={}, forward={},
        requested=NOW, job="j",
    )  # fmt: skip
    with court.catalog.writing() as tx:
        failovers.add(tx, wanted)
    answer = court.post("/report", {**REPORT, "holds": [FAILOVER, "../../etc", "none"]}, court.other)
    assert answer.body == {"errands": [], "forget": ["../../etc", "none"]}
    assert court.post("/report", {**REPORT, "holds": ["x"] * 1001}, court.other).status in (400, 422)
    assert court.post("/report", {**REPORT, "host": "h\x1b"}, court.other).status == 400


def odd_request() -> str:
    """For a certificate of an authority that passes for the configuration server and for the user admin."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName("localhost"), x509.UniformResourceIdentifier("farshore://user/admin")]
    made = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "farshore://server/1")]))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), critical=False)
    )
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize("how", ["enrolled", "renewed"])
def test_what_a_request_says_about_itself_counts_for_nothing(court: Court, tokens_of: Any, how: str) -> None:
    if how == "enrolled":
        body = {"token": tokens_of()["token"], "request": odd_request()}
        answer = court.office.call("POST", "/v1/master-targets/enrolments", body)
    else:
        answer = court.post("/certificate", {"request": odd_request()}, court.mine)
    held = x509.load_pem_x509_certificate(answer.body["certificate"].encode())
    names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uri.startswith("farshore://master-target/")
    assert names.get_values_for_type(x509.DNSName) == []
    assert not held.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    used = held.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(used) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH], "it passes for no server"
    assert court.office.call("GET", "/v1/machines", None, shown(answer.body["certificate"])).status == 403


def test_tokens_are_good_once_and_in_time_and_not_after_a_revocation(court: Court, tokens_of: Any) -> None:
    def enrol(token: str) -> Any:
        body = {"token": token, "request": signing_request()}
        return court.office.call("POST", "/v1/master-targets/enrolments", body)

    given = tokens_of(valid_seconds=60)
    assert enrol(given["token"] + "x").status == 401
    # A request that is none does not spend it.
    body = {"token": given["token"], "request": "-----BEGIN CERTIFICATE REQUEST-----\n"}
    assert court.office.call("POST", "/v1/master-targets/enrolments", body).status in (400, 422)
    assert enrol(given["token"]).status == 201
    assert enrol(given["token"]).status == 401
    court.office.call("DELETE", "/v1/master-targets/new", None, court.admin)
    late = tokens_of(valid_seconds=60)
    court.office.clock.time += 61 * SECOND
    assert enrol(late["token"]).status == 401
    court.office.call("DELETE", "/v1/master-targets/new", None, court.admin)
    for method, path in (("POST", "/v1/master-targets/new/revoke"), ("DELETE", "/v1/master-targets/new")):
        token = tokens_of()["token"]
        assert court.office.call(method, path, None, court.admin).status == 204
        assert enrol(token).status == 401, path
        court.office.call("DELETE", "/v1/master-targets/new", None, court.admin)
    with court.catalog.reading() as tx:
        assert not [one for one in tokens.every(tx) if not one.used and one.expires > court.office.clock.time]


def test_a_stranger_learns_nothing_and_has_no_way_but_a_token(court: Court) -> None:
    court.ask()
    for answer in (
        court.keys(MACHINE, None),
        court.post("", {"version": "1"}, None),
        court.post("/report", REPORT, None),
        court.post("/errands/e1", {"run": "r"}, None),
        court.post("/certificate", {"request": signing_request()}, None),
    ):
        assert (answer.status, answer.code, answer.read) == (401, "unauthenticated", False)
    assert court.row()[0] == "waiting"
    with court.catalog.reading() as tx:
        assert epochs.history(tx, MACHINE) == []
