"""The authority's key replaced, step by step, and cut off at every place where a step can be."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from tests.unit.configuration_server.offices import Office, shown, signing_request
from tests.unit.protection.catalogs import MACHINE, add_machine

from farshore.api_types.authority import Phase
from farshore.api_types.users import Role
from farshore.client.credentials import fingerprints
from farshore.configuration_server.identity import Kind
from farshore.configuration_server.pki import replacement
from farshore.configuration_server.pki.authority import Authority
from farshore.model.errors import WrongState

NOW = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)
PATH = "/v1/authority/replacement"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    replacement.save(tmp_path / replacement.SIGNER, Authority.create("first", NOW))
    return tmp_path


def test_each_step_is_found_again_in_the_files(folder: Path) -> None:
    first = replacement.load(folder)
    introduced = replacement.introduce(folder, first, NOW)
    switched = replacement.switch(folder, introduced)
    assert (folder / replacement.FORMER).read_text() == first.signer.certificate, "the key is gone"
    assert replacement.load(folder).bundle == switched.bundle
    assert set(fingerprints(introduced.bundle)) == set(fingerprints(switched.bundle))
    assert fingerprints(switched.bundle)[0] != first.signer.fingerprint
    finished = replacement.finish(folder, switched)
    assert replacement.load(folder).bundle == finished.bundle == switched.signer.certificate
    assert [one.phase for one in (first, introduced, switched, finished)] == [
        Phase.SETTLED,
        Phase.INTRODUCED,
        Phase.SWITCHED,
        Phase.SETTLED,
    ]
    assert len({one.mark for one in (first, introduced, switched, finished)}) == 4
    with pytest.raises(WrongState, match="settled"):
        replacement.finish(folder, finished)


def test_a_switch_that_was_cut_off_is_done_again(folder: Path) -> None:
    introduced = replacement.introduce(folder, replacement.load(folder), NOW)
    (folder / replacement.FORMER).write_text(introduced.signer.certificate)  # and then the power was cut
    (folder / replacement.FORMER).chmod(0o600)
    again = replacement.load(folder)
    assert (again.phase, again.bundle) == (Phase.INTRODUCED, introduced.bundle)
    switched = replacement.switch(folder, again)
    assert replacement.load(folder).bundle == switched.bundle
    # The next replacement begins beside nothing that is left of this one.
    replacement.finish(folder, switched)
    assert replacement.introduce(folder, replacement.load(folder), NOW).phase is Phase.INTRODUCED


def test_a_step_waits_for_everybody_who_would_be_shut_out(office: Office) -> None:
    office.services.settings.pki.mkdir()
    replacement.save(office.services.settings.pki / replacement.SIGNER, office.services.issuer.authority)
    old = office.user("admin", Role.CONTRIBUTOR)
    with office.services.catalog.writing() as tx:
        name = add_machine(tx).name
    agent = office.certificate(Kind.MACHINE, MACHINE)
    assert office.call("POST", PATH, {"phase": "settled"}, old).status == 200
    assert office.call("POST", PATH, {"phase": "settled"}, old).code == "wrong-state", "that was done"
    beat = {"run": "r1", "version": "1"}
    told = office.call("POST", "/v1/machines/self/heartbeat", beat, agent)
    assert (told.status, told.headers["farshore-authorities"]) == (200, office.services.issuer.authorities.mark)
    new = office.certificate(Kind.USER, "admin")
    refused = office.call("POST", PATH, {"phase": "introduced"}, new)
    assert refused.status == 409
    assert f"This step would shut out 1: machine {name}." in refused.body["detail"]

    asked = {"request": signing_request()}
    made = office.call("POST", "/v1/machines/self/certificate", asked, agent).body
    assert made["authority"] == office.services.issuer.bundle
    assert office.call("GET", PATH, certificate=new).body["waiting"] == [f"machine {name}"], "it may not have got it"
    assert office.call("POST", "/v1/machines/self/heartbeat", beat, shown(made["certificate"])).status == 200
    assert office.call("GET", PATH, certificate=new).body["waiting"] == []
    # A copy of the old file is in use elsewhere: it would be shut out as well.
    assert office.call("GET", PATH, certificate=old).status == 200
    lagging = ["user admin (an older credentials file is in use too)"]
    assert office.call("GET", PATH, certificate=new).body["waiting"] == lagging
    assert office.call("POST", PATH, {"phase": "introduced"}, new).status == 409
    third = office.certificate(Kind.USER, "admin")  # what is used in that place from now on
    assert office.call("GET", PATH, certificate=third).body["waiting"] == []
    switched = office.call("POST", PATH, {"phase": "introduced"}, new).body
    assert (switched["phase"], len(switched["trusted"]), len(switched["waiting"])) == ("switched", 2, 2)
    done = office.call("POST", PATH, {"phase": "switched", "leave_behind": True}, new).body
    assert (done["phase"], done["trusted"]) == ("settled", switched["trusted"][:1])
    kinds = [one["kind"] for one in office.call("GET", "/v1/audit", certificate=new).body]
    assert [kind for kind in kinds if kind.startswith("authority.")] == [
        "authority.introduced",
        "authority.switched",
        "authority.settled",
    ]
