"""schemathesis against the whole API: no request that it derives from the API's own description finds a defect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.transport.asgi import ASGI_TRANSPORT
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import MACHINE, SERVER, add_machine, add_server

from farshore.api_types.users import Role
from farshore.configuration_server.identity import Kind
from farshore.configuration_server.pki import replacement
from farshore.configuration_server.web.limits import Limits
from farshore.configuration_server.web.protocol import with_peer

EXAMPLES = 60
"""Of each route."""
# Not whether each request that fits the description is accepted: a text that is no certificate request fits as well.
NAMES = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
]


class Api:
    """The API of an office, called by whoever may call a route; schemathesis's requests are never too many."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("check", "check_tokens"):
            monkeypatch.setattr(Limits, name, lambda *_, **__: None)
        self.office = Office(folder)
        self.office.services.settings.pki.mkdir()
        authority = self.office.services.issuer.authority
        replacement.save(self.office.services.settings.pki / replacement.SIGNER, authority)
        self.user = self.office.user("admin", Role.CONTRIBUTOR)
        with self.office.services.catalog.writing() as tx:
            add_machine(tx)
            add_server(tx)
        self.machine = self.office.certificate(Kind.MACHINE, MACHINE)
        self.server = self.office.certificate(Kind.PROCESS_SERVER, SERVER)

    def application(self, path: str) -> Callable[[Any, Any, Any], Any]:
        shown = self.machine if "/machines/self" in path else self.user
        return with_peer(self.office.app, self.server if "/process-servers/self" in path else shown)


def tried(api: Api, examples: int, path: str = "") -> dict[str, str]:
    """What was found, by route."""
    load_all_checks()
    found: dict[str, str] = {}
    for result in schemathesis.openapi.from_dict(api.office.app.openapi()).get_all_operations():
        operation: Any = result.ok()
        if path in operation.path:
            what = defect(api, operation, examples)
            if what:
                found[f"{operation.method.upper()} {operation.path}"] = what
    return found


def defect(api: Api, operation: Any, examples: int) -> str:
    """What one route did wrong; empty if nothing."""
    checks = CHECKS.get_by_names(NAMES)

    @seed(1)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        answer = ASGI_TRANSPORT.send(case, app=api.application(operation.path), base_url="http://localhost")
        case.validate_response(answer, checks=checks)

    try:
        run()
    except (Exception, BaseExceptionGroup) as error:  # the application's own, or what schemathesis says  # noqa: BLE001
        return f"{type(error).__name__} {error}"[:2000]
    return ""


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_it_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(tmp_path, monkeypatch)
    found = tried(api, EXAMPLES)
    api.office.close()
    assert not found, "\n\n".join(f"{route}: {what}" for route, what in found.items())


@pytest.mark.soak
def test_it_finds_a_defect_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: one route fails for one kind of name."""
    api = Api(tmp_path, monkeypatch)

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("farshore.catalog.policies.every", fails)
    found = tried(api, 3, "/v1/policies")
    api.office.close()
    assert "GET /v1/policies" in found
