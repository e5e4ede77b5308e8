"""Events of changes: the old value and the new one of each field that is another one now, and no secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import MACHINE, SERVER, add_machine, add_server

from farshore.api_types.users import Role
from farshore.catalog import events

SECRET = "very secret"


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    with made.services.catalog.writing() as tx:
        add_machine(tx, state="protected")
        add_server(tx)
    yield made
    made.close()


class Told:
    """Calls by a contributor, and what the last event says."""

    def __init__(self, office: Office) -> None:
        self.office, self.root = office, office.user("root", Role.CONTRIBUTOR)

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[str, dict[str, Any], str]:
        answer = self.office.call(method, path, body, self.root)
        assert answer.status < 300, answer.body
        with self.office.services.catalog.reading() as tx:
            rows = events.listed(tx)
        assert not any(SECRET in row.message + str(row.detail) for row in rows)
        return rows[-1].kind, rows[-1].detail, rows[-1].message


@pytest.fixture
def told(office: Office) -> Told:
    return Told(office)


def change(old: Any, new: Any) -> dict[str, Any]:
    return {"old": old, "new": new}


def test_a_machines_settings(told: Told) -> None:
    kind, detail, message = told("PUT", f"/v1/machines/{MACHINE}/protection", {"cpu_percent": 20, "bandwidth_limit": 0})
    assert (kind, detail) == ("machine.protect", {"cpu_percent": change(10, 20)})
    assert "cpu_percent from 10 to 20" in message
    assert told("PUT", f"/v1/machines/{MACHINE}/protection", {})[1] == {}
    _, detail, _ = told("DELETE", f"/v1/machines/{MACHINE}/protection")
    assert detail == {"state": change("protected", "unprotected"), "protect": change(True, False)}
    assert told("DELETE", f"/v1/machines/{MACHINE}")[1]["policy"] == change("default", None)


def test_a_target(told: Told) -> None:
    told("PATCH", f"/v1/machines/{MACHINE}/target", {"processors": 2})
    kind, detail, message = told("PATCH", f"/v1/machines/{MACHINE}/target", {"processors": 4, "memory": 1 << 30})
    assert (kind, detail) == ("machine.target", {"processors": change(2, 4), "memory": change(None, 1 << 30)})
    assert "processors from 2 to 4, memory from none to 1073741824" in message
    _, detail, _ = told("PATCH", f"/v1/machines/{MACHINE}/target", {"reset": ["processors"]})
    assert detail == {"processors": change(4, None)}


def test_a_user(told: Told) -> None:
    _, detail, _ = told("POST", "/v1/users", {"name": "ann", "role": "operator"})
    assert detail["role"] == change(None, "operator")
    first = detail["expires"]["new"]
    told.office.clock.time += 10**9
    kind, detail, _ = told("POST", "/v1/users/ann/certificates", {})
    assert (kind, detail["expires"]["old"], detail["expires"]["new"] > first) == ("user.renewed", first, True)
    kind, detail, _ = told("DELETE", "/v1/users/ann")
    assert (kind, detail["role"]) == ("user.deleted", change("operator", None))


def test_a_process_server(told: Told) -> None:
    told("PATCH", f"/v1/process-servers/{SERVER}", {"draining": True})
    kind, detail, message = told("PATCH", f"/v1/process-servers/{SERVER}", {"draining": False, "time_zone": "UTC"})
    assert (kind, detail["draining"]) == ("process-server.changed", change(True, False))
    assert "draining from True to False" in message


def test_an_alert_channel(told: Told) -> None:
    settings = {"host": "mail.example.com", "from": "a@example.com", "to": "b@example.com"}
    body = {"name": "mail", "kind": "mail", "settings": settings, "secret": SECRET, "severity": "warning"}
    body["settings"] = {**settings, "user": "dr"}
    kind, detail, _ = told("POST", "/v1/alert-channels", body)
    assert (kind, detail["severity"], detail["secret"]) == (
        "alert-channel.added",
        change(None, "warning"),
        change(None, "sealed"),
    )
    kind, detail, _ = told("DELETE", "/v1/alert-channels/mail")
    assert (kind, detail["severity"], detail["settings"]["old"]["user"]) == (
        "alert-channel.removed",
        change("warning", None),
        "dr",
    )


def test_a_site(told: Told) -> None:
    kind, detail, _ = told("POST", "/v1/sites", {"id": "far", "kind": "qemu", "settings": {}})
    assert (kind, detail["kind"]) == ("site.added", change(None, "qemu"))
    kind, detail, _ = told("DELETE", "/v1/sites/far")
    assert (kind, detail["kind"]) == ("site.removed", change("qemu", None))


def test_a_push_account(told: Told) -> None:
    kind, detail, _ = told("POST", "/v1/push-accounts", {"name": "dc", "user": "admin", "password": SECRET})
    assert (kind, detail["user"]) == ("push-account.added", change(None, "admin"))
    assert told("DELETE", "/v1/push-accounts/dc")[1]["user"] == change("admin", None)


def test_a_policy_that_comes_and_goes(told: Told) -> None:
    assert told("POST", "/v1/policies", {"name": "gold", "keep_daily": 30})[1]["keep_daily"] == change(None, 30)
    assert told("DELETE", "/v1/policies/gold")[1]["keep_daily"] == change(30, None)
