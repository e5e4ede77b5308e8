"""Who sent a request, where there is more than one way to prove it."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import NOW

from farshore.api_types.users import Role
from farshore.catalog import audit, users
from farshore.catalog.database import Transaction
from farshore.configuration_server.identity import Identity, Kind
from farshore.model.errors import Unauthenticated

ME = "/v1/policies"


class Bearer:
    """Tokens that are the names of users; any other is no good."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.asked = 0

    def caller(self, head: HTTPConnection, tx: Transaction) -> Identity | None:
        self.asked += 1
        token = self._token(head)
        if token is None:
            return None
        if token not in self.names:
            raise Unauthenticated("This token is no good.", remedy="-")
        return Identity(Kind.USER, token)

    def claimed(self, head: HTTPConnection) -> str | None:
        token = self._token(head)
        return None if token is None else f"user/{token}"

    def _token(self, head: HTTPConnection) -> str | None:
        scheme, _, token = head.headers.get("authorization", "").partition(" ")
        return token if scheme == "Bearer" else None


@pytest.fixture
def bearer(office: Office) -> Bearer:
    made = Bearer("ann", "boss")
    office.authenticators.append(made)
    office.user("ann", Role.READER)
    return made


def ask(office: Office, certificate: dict[str, Any] | None, token: str = "", method: str = "GET") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = {"name": "x"} if method == "POST" else None
    answer = office.call(method, ME, body, certificate, headers=headers)
    return answer.status, "" if answer.status < 400 else answer.code


def refused(office: Office) -> list[str]:
    with office.services.catalog.reading() as tx:
        return [row.actor for row in audit.listed(tx) if row.kind == "refused"]


def test_another_way_lets_in_whom_it_knows_with_the_role_that_the_catalog_has(office: Office, bearer: Bearer) -> None:
    assert ask(office, None, "ann") == (200, "")
    assert ask(office, None, "ann", "POST") == (403, "forbidden")
    assert ask(office, None, "boss") == (401, "unauthenticated"), "there is no such user"
    assert refused(office) == ["user/ann", "user/boss"]


def test_a_refusal_is_final(office: Office, bearer: Bearer) -> None:
    """Whatever is shown beside it, and whichever comes first in the list."""
    mine = office.user("me", Role.CONTRIBUTOR)
    with office.services.catalog.writing() as tx:
        users.revoke_certificates(tx, "user", "me", NOW)
    two = {**mine, "subjectAltName": (("URI", "farshore://user/me"), ("URI", "farshore://user/ann"))}
    for certificate in (mine, two, {**mine, "subjectAltName": ()}):
        assert ask(office, certificate, "ann") == (401, "unauthenticated")
    assert bearer.asked == 0
    assert refused(office) == ["user/me", "nobody", "nobody"]

    office.authenticators.reverse()
    good = office.user("you", Role.CONTRIBUTOR)
    assert ask(office, good, "nonsense") == (401, "unauthenticated")
    assert ask(office, good) == (200, "")


def test_the_first_answer_holds(office: Office, bearer: Bearer) -> None:
    reader = office.user("me", Role.READER)
    office.services.catalog.write(lambda tx: setattr(users.get(tx, "ann"), "role", "contributor"))
    assert ask(office, reader, "ann", "POST") == (403, "forbidden")
    assert (bearer.asked, refused(office)) == (0, ["user/me"])
    office.authenticators.reverse()
    assert ask(office, reader, "ann", "POST") == (201, "")


def test_who_shows_nothing_is_nobody(office: Office, bearer: Bearer) -> None:
    assert ask(office, None) == (401, "unauthenticated")
    assert (bearer.asked, refused(office)) == (1, ["nobody"])
