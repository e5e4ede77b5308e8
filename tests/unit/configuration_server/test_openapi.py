"""The published description of the API is that of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.unit.configuration_server.offices import Office
from tests.unit.configuration_server.test_access import WANTED

from farshore.api_types.users import Role
from farshore.configuration_server.openapi import document
from farshore.configuration_server.web.callers import Door
from farshore.configuration_server.web.problems import MEDIA_TYPE

DOCUMENT = json.loads(document())
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
PUBLISHED = Path(__file__).parents[3] / "docs" / "api" / "openapi.json"


def test_the_published_document_is_current() -> None:
    assert PUBLISHED.read_text() == document(), "Run: make openapi"


def test_every_operation_says_what_it_does() -> None:
    for name, operation in OPERATIONS.items():
        assert len(operation.get("description", "")) >= 10, name


def test_every_error_is_described_as_the_problem_document_that_it_is() -> None:
    assert "422" not in {status for operation in OPERATIONS.values() for status in operation["responses"]}
    assert not {"HTTPValidationError", "ValidationError"} & set(DOCUMENT["components"]["schemas"])
    for name, operation in OPERATIONS.items():
        content = operation["responses"]["default"]["content"]
        assert content == {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}, name


def test_a_fault_in_a_body_is_answered_as_described(office: Office) -> None:
    contributor = office.user("someone", Role.CONTRIBUTOR)
    answer = office.call("POST", "/v1/policies", {"name": "[/x]"}, contributor)
    assert (answer.status, answer.code) == (400, "malformed")
    schema = DOCUMENT["components"]["schemas"]["Problem"]
    assert set(schema["required"]) <= set(answer.body) == set(schema["properties"])


def test_every_operation_takes_a_client_certificate_but_those_that_are_open() -> None:
    assert DOCUMENT["components"]["securitySchemes"]["certificate"]["type"] == "mutualTLS"
    assert DOCUMENT["security"] == [{"certificate": []}]
    without = {name.partition(" ")[2] for name, operation in OPERATIONS.items() if "security" in operation}
    assert without == {name.partition(" ")[2] for name, door in WANTED.items() if door is Door.ANYBODY}
    assert all(operation.get("security", []) == [] for operation in OPERATIONS.values())


def test_every_reference_leads_somewhere() -> None:
    wanted = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(DOCUMENT)))
    assert wanted <= set(DOCUMENT["components"]["schemas"])
