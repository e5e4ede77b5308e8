"""The published description of the API is that of the code."""

from __future__ import annotations

import json
from pathlib import Path

from farshore.configuration_server.openapi import document

PUBLISHED = Path(__file__).parents[3] / "docs" / "api" / "openapi.json"


def test_the_published_document_is_current() -> None:
    assert PUBLISHED.read_text() == document(), "Run: make openapi"


def test_every_operation_says_what_it_does() -> None:
    for path, operations in json.loads(document())["paths"].items():
        for method, operation in operations.items():
            assert len(operation.get("description", "")) >= 10, f"{method} {path}"
