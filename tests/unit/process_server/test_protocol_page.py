"""docs/formats/stream-protocol.md tells every request that the data plane answers, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from farshore.api_types.body import Problem
from farshore.api_types.streams import (
    Acknowledgement,
    BaseCompletion,
    ChunkRange,
    DifferenceAnswer,
    MissingChunks,
    ProofAnswer,
    Protocol,
    ProtocolChoice,
    ProtocolOffer,
    StreamStatus,
)
from farshore.formats.stream_protocol import SUPPORTED
from farshore.model.errors import by_code
from farshore.process_server.data_plane.routes import Routes

PAGE = (Path(__file__).parents[3] / "docs" / "formats" / "stream-protocol.md").read_text()
STREAM = "/v1/streams/{machine}/{epoch}"
SECTIONS = dict(re.findall(r"^### `([A-Z]+ \S+)`\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL))
BODIES: dict[str, list[type[BaseModel]]] = {
    "GET /v1/protocol": [Protocol],
    "POST /v1/protocol": [ProtocolOffer, ProtocolChoice],
    f"GET {STREAM}": [StreamStatus],
    f"POST {STREAM}/batches": [Acknowledgement],
    f"GET {STREAM}/chunks/missing": [MissingChunks],
    f"POST {STREAM}/proofs": [ProofAnswer],
    f"POST {STREAM}/differences": [DifferenceAnswer],
    f"POST {STREAM}/base": [BaseCompletion],
}


def routes() -> set[str]:
    nothing: Any = None
    made = Routes(nothing, nothing, nothing, nothing, copying=1, bandwidth=nothing)
    about_streams = {f"{method} {STREAM}{rest}" for method, rest in made._calls}
    return about_streams | {f"{method} {path}" for method, path in made._of_no_stream}


def test_every_route_has_its_section_and_every_section_its_route():
    assert len(routes()) >= 8
    assert set(SECTIONS) == routes()


@pytest.mark.parametrize("route", BODIES)
def test_a_section_names_every_member_of_its_bodies(route):
    told = set(re.findall(r"^\| `([a-z_]+)` \|", SECTIONS[route], re.MULTILINE))
    assert told == {field for body in BODIES[route] for field in body.model_fields}


def test_members_of_lists_and_problems_are_named():
    ranges = re.findall(r"`ranges\[\]\.(\w+)`", SECTIONS[f"GET {STREAM}/chunks/missing"])
    assert ranges == list(ChunkRange.model_fields)
    errors = PAGE.partition("## Errors")[2]
    assert set(Problem.model_fields) <= set(re.findall(r"`(\w+)`", errors))


def test_the_codes_and_their_statuses_are_ours():
    rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \| (\d{3}) \|", PAGE, re.MULTILINE)
    assert len(rows) >= 10
    for codes, status in rows:
        for code in re.findall(r"`([a-z-]+)`", codes):
            assert by_code()[code].http_status == int(status), code


def test_the_version_is_the_newest():
    assert f"\nVersion {SUPPORTED[0]}." in PAGE
