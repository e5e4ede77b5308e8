"""What a request may hold: everything has a bound, and what is over it costs next to nothing."""

from __future__ import annotations

import json
import types
import typing
from typing import Any

import pytest
from fastapi import Request
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from tests.unit.configuration_server.offices import Office
from tests.unit.configuration_server.test_access import ROUTES
from tests.unit.protection.catalogs import MACHINE, add_machine, add_server, description

from farshore.api_types.body import LARGEST
from farshore.api_types.machines import FormerResult, Heartbeat
from farshore.api_types.users import Role
from farshore.configuration_server.identity import Kind
from farshore.configuration_server.web.callers import Door

BODIES = {
    route.body_field.field_info.annotation
    for route in ROUTES.values()
    if getattr(route, "body_field", None) is not None
}


def bounds_of(metadata: typing.Sequence[Any]) -> set[str]:
    """Names of the bounds that annotations set."""
    found: set[str] = set()
    for one in metadata:
        inner = [one, *one.metadata] if isinstance(one, FieldInfo) else [one]
        for each in inner:
            for name in ("max_length", "le", "lt", "ge", "gt", "pattern"):
                if getattr(each, name, None) is not None:
                    found.add(name)
    return found


def unbounded(annotation: Any, metadata: typing.Sequence[Any], where: str) -> typing.Iterator[str]:
    """Every place below ``annotation`` that could hold any amount of anything."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from unbounded(arguments[0], [*arguments[1:], *metadata], where)
    elif origin in (typing.Union, types.UnionType):
        for one in arguments:
            if one is not type(None):
                yield from unbounded(one, metadata, where)
    elif origin in (list, dict):
        if "max_length" not in bounds_of(metadata):
            yield where
        for one in arguments:
            yield from unbounded(one, [], f"{where}[]")
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        assert annotation.model_config.get("extra") == "forbid", where
        assert annotation.model_config.get("allow_inf_nan") is False, where
        for name, field in annotation.model_fields.items():
            yield from unbounded(field.annotation, field.metadata, f"{annotation.__name__}.{name}")
    elif annotation is str:
        if "max_length" not in bounds_of(metadata):
            yield where
    elif annotation in (int, float):
        found = bounds_of(metadata)
        if not found & {"ge", "gt"} or not found & {"le", "lt"}:
            yield where
    elif annotation in (Any, object, dict, list):
        yield where


@pytest.mark.parametrize("body", sorted(BODIES, key=lambda one: one.__name__))
def test_every_text_list_and_number_of_every_body_has_a_bound(body: type[BaseModel]) -> None:
    assert list(unbounded(body, [], body.__name__)) == []


def test_the_walk_finds_what_has_no_bound() -> None:
    class Loose(BaseModel):
        model_config = {"extra": "forbid", "allow_inf_nan": False}
        text: str
        texts: list[str]
        number: int | None = None

    assert list(unbounded(Loose, [], "")) == ["Loose.text", "Loose.texts", "Loose.texts[]", "Loose.number"]


def test_every_parameter_has_a_bound() -> None:
    for name, route in ROUTES.items():
        for parameter in (*route.dependant.path_params, *route.dependant.query_params):
            field = parameter.field_info
            assert list(unbounded(field.annotation, [field, *field.metadata], parameter.name)) == [], name


@pytest.fixture
def agent(office: Office) -> dict[str, Any]:
    with office.services.catalog.writing() as tx:
        add_machine(tx)
        add_server(tx)
    return office.certificate(Kind.MACHINE, MACHINE)


def test_a_stranger_is_not_listened_to_for_long(office: Office) -> None:
    """1.2 MB of ``{"disks":[{},{},…]}`` took 17.6 s and 1.4 GiB, and held up every other caller."""
    flood = b'{"disks":[' + b"{}," * 400_000 + b"{}]}"
    answer = office.call("POST", "/v1/enrolments", raw=flood)
    assert (answer.status, answer.code) == (400, "malformed")
    assert "64 KiB" in answer.body["detail"]
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'["x"],', b'{"a":{}},'])
@pytest.mark.parametrize("caller", ["nobody", "machine", "process-server"])
def test_values_that_cost_more_than_the_bytes_that_they_come_in_are_not_parsed(
    office: Office, caller: str, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, certificate, most = {
        "nobody": ("/v1/enrolments", None, Door.ANYBODY.most_bytes),
        "machine": ("/v1/machines/self/heartbeat", Kind.MACHINE, Door.MACHINE.most_bytes),
        "process-server": ("/v1/process-servers/self/report", Kind.PROCESS_SERVER, Door.PROCESS_SERVER.most_bytes),
    }[caller]
    parsed: list[Request] = []
    monkeypatch.setattr(Request, "json", parsed.append)
    shown = office.certificate(certificate, MACHINE) if certificate else None
    raw = b'{"x":[' + piece * ((most - 50) // len(piece)) + b"0]}"
    answer = office.call("POST", path, raw=raw, certificate=shown)
    assert (answer.status, answer.code) == (400, "malformed")
    assert not parsed


def test_a_connection_that_ends_within_a_body_is_no_defect(office: Office) -> None:
    """It was logged with a traceback, as fire saw when it cut the network."""
    answer = office.call("POST", "/v1/enrolments", raw=b'{"token":', cut=True)
    assert (answer.status, answer.code) == (400, "malformed")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/enrolments", {"token": "t", "request": "r", "description": {"disks": [{}] * 20_000}}),
        ("/v1/enrolments", {f"f{number}": 1 for number in range(5_000)}),
        ("/v1/enrolments", {"token": "t" * 60_000}),
    ],
)
def test_validation_ends_at_the_first_errors(office: Office, path: str, body: Any) -> None:
    answer = office.call("POST", path, body)
    assert answer.code == "malformed"
    assert len(json.dumps(answer.body)) < 1000


def test_depth_is_no_way_in(office: Office) -> None:
    for raw in (b"[" * 60_000, b'{"token":' * 6_000, b"1" * 60_000, b"\xff\xfe{"):
        assert office.call("POST", "/v1/enrolments", raw=raw).code == "malformed"


ODD = ["\ud800", "a\x00b", "\x1b[2J", "\x9b2J", "\x7f", "\udfff\ud800"]


@pytest.mark.parametrize("odd", ODD)
def test_no_text_of_a_heartbeat_holds_what_would_break_a_list(office: Office, agent: dict[str, Any], odd: str) -> None:
    """One such text ended the watch for good, and ``GET /v1/machines`` and ``/v1/metrics`` answered 500."""
    good = {"run": "r1", "version": "1"}
    for field in ("run", "version", "release", "python", "mode_cause"):
        refused = office.call("POST", "/v1/machines/self/heartbeat", {**good, field: odd}, agent)
        assert (refused.status, refused.code) == (400, "malformed"), field
    for nested in (
        {"warnings": [odd]},
        {"findings": [{"subject": "s", "severity": "ok", "message": odd}]},
        {"results": [{"id": "c", "error": odd}]},
        {"lag": {odd: 1.0}},
        {odd: 1},
    ):
        refused = office.call("POST", "/v1/machines/self/heartbeat", {**good, **nested}, agent)
        assert (refused.status, refused.code) == (400, "malformed"), nested
    described = description().model_dump(mode="json")
    for field in ("hostname", "operating_system", "kernel", "architecture", "hardware_id"):
        body = {"run": "r1", "kind": "initial", "description": {**described, field: odd}}
        assert office.call("POST", "/v1/machines/self/epochs", body, agent).code == "malformed", field
    reader = office.user("reader", Role.READER)
    assert office.call("GET", "/v1/machines", certificate=reader).status == 200
    assert office.call("GET", "/v1/metrics", certificate=reader).status == 200


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "-Infinity", "1e999", str(LARGEST + 1), "-1"])
def test_no_number_is_beyond_what_can_be_kept_and_shown(office: Office, agent: dict[str, Any], odd: str) -> None:
    for field in ("epoch", "mode_since", "points_every", "captured_sequence", "spilled_bytes"):
        raw = f'{{"run": "r1", "version": "1", "{field}": {odd}}}'.encode()
        answer = office.call("POST", "/v1/machines/self/heartbeat", certificate=agent, raw=raw)
        assert (answer.status, answer.code) == (400, "malformed"), (field, odd)


def test_large_numbers_in_paths_and_queries_are_refused(office: Office) -> None:
    admin = office.user("admin", Role.CONTRIBUTOR)
    server = office.certificate(Kind.PROCESS_SERVER, MACHINE)
    big = 1 << 63
    for path in (f"/v1/events?after={big}", f"/v1/machines/x/points?before={big}", "/v1/events?after=-1",
                 f"/v1/machines/x/points?after={big}", f"/v1/events?kind={'x' * 300}"):  # fmt: skip
        assert office.call("GET", path, certificate=admin).code == "malformed", path
    stream = f"/v1/process-servers/self/streams/{MACHINE}/{big}"
    assert office.call("GET", stream, certificate=server).code == "malformed"
    for field in ("bandwidth_limit", "cpu_percent", "memory_limit"):
        assert office.call("PUT", "/v1/machines/x/protection", {field: big}, admin).code == "malformed", field
    for field in ("rpo_threshold", "crash_consistent_every", "app_consistent_every", "hot_window", "keep_hourly"):
        assert office.call("POST", "/v1/policies", {"name": "p", field: big}, admin).code == "malformed", field


def test_a_program_says_what_it_found_in_whatever_words() -> None:
    """An agent must not fail over the words of somebody else's error, nor be refused for them."""

    beat = Heartbeat(
        run="r", version="1", mode_cause="\x1b[31mno\ud800", results=[FormerResult(id="1", error="e" * 9999)]
    )
    assert beat.mode_cause == "\N{REPLACEMENT CHARACTER}[31mno\N{REPLACEMENT CHARACTER}"
    assert len(beat.results[0].error) == 4000
    assert beat.model_dump_json()
