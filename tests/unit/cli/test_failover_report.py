"""How checks are written on the command line, and a failover's report as HTML."""

from __future__ import annotations

import base64

import pytest

from farshore.api_types.checks import Check, CheckKind, CheckResult, Evidence, Verdict
from farshore.api_types.failovers import Failover, FailoverKind, FailoverReport, Incident
from farshore.cli.check_grammar import checks_of, parse_check, parse_checks, shown_check
from farshore.cli.failover_report import html_of
from farshore.model.errors import Malformed

HTTP = Check(kind=CheckKind.HTTP, port=80, path="/health", status=204, contains="a,b", within=9)


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("tcp:22", Check(kind=CheckKind.TCP, port=22)),
        ("ssh:22,within=600", Check(kind=CheckKind.SSH, port=22, within=600)),
        ("http:80/health,status=204,contains=a,b,within=9", HTTP),
        ("https:443", Check(kind=CheckKind.HTTPS, port=443)),
        ("script:orders", Check(kind=CheckKind.SCRIPT, script="orders")),
        ("guest:orders,key=k", Check(kind=CheckKind.GUEST, script="orders", key="k", port=22)),
        ("agent:orders", Check(kind=CheckKind.AGENT, script="orders")),
        ("agent:orders,within=9", Check(kind=CheckKind.AGENT, script="orders", within=9)),
        ("guest:o,key=k,user=dba,port=2022", Check(kind=CheckKind.GUEST, script="o", key="k", user="dba", port=2022)),
        ("console:hello, world", Check(kind=CheckKind.CONSOLE, contains="hello, world")),
    ],
)
def test_checks_are_written_and_shown(text: str, check: Check) -> None:
    assert parse_check(text) == check
    assert shown_check(check) == text


@pytest.mark.parametrize(
    "text",
    ["", "tcp", "tcp:0", "tcp:x", "tcp:22/x", "ping:1", "script:../x", "script:", "console:", "guest:x",
     "guest:x,key=../k", "guest:x,key=k,user=-o", "script:x,key=k", "agent:", "agent:../x", "agent:x,key=k",
     "http:80/ x", "tcp:22,within=0", "http:80,status=7"],
)  # fmt: skip
def test_what_is_no_check(text: str) -> None:
    with pytest.raises(Malformed):
        parse_check(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tcp:99999", "port takes a value of 65535 at most"),
        ("http:80/x,status=9999", "status takes a value of 599 at most"),
        ("script:../x", "script takes 1 to 63 letters"),
        ("console:", "a check of the console needs the text"),
        ("ftp:21", "kind takes tcp, http"),
    ],
)
def test_what_a_check_takes_is_said_in_words(text: str, said: str) -> None:
    with pytest.raises(Malformed, match=said) as caught:
        parse_check(text)
    assert not any(foreign in caught.value.message for foreign in ("Input", "String should", "^", "Value error"))


def test_checks_of_several_machines() -> None:
    assert checks_of(["a", "b"], None) == {"a": None, "b": None}
    found = checks_of(["a", "b"], ["ssh:22", "b=http:80/x,status=200"])
    assert found["a"] == [parse_check("ssh:22")]
    assert found["b"] == [parse_check("ssh:22"), parse_check("http:80/x,status=200")]
    assert checks_of(["a"], ["none"]) == {"a": []}
    assert parse_checks(["none"]) == []


def report(**changes: object) -> FailoverReport:
    result = CheckResult(check=HTTP, passed=False, seconds=9, tries=40, detail="<script>alert(1)</script>")
    evidence = Evidence(rpo_seconds=2.0, rpo_basis="from then to now", checks=[result], diagnosis="It panicked.")
    failover = Failover(
        id="f", machine="m", kind=FailoverKind.TEST, point_epoch=1, point_sequence=2, point_time=3, site="qemu",
        state="running", requested=1, evidence=evidence, verdict=Verdict.FAILED,
    )  # fmt: skip
    values = {"failover": failover, "machine": "db1 <b>", "written": 5, "console": "login: \x1b[31m<&", **changes}
    return FailoverReport.model_validate(values)


def test_a_report_shows_what_was_found_and_runs_nothing() -> None:
    picture = b"\x89PNG\r\n\x1a\nrest"
    events = [Incident(time=1, kind="k", severity="error", message="0 of 1 checks of db1 passed.")]
    shown = html_of(report(screenshot=base64.b64encode(picture).decode(), events=events))
    for word in (
        "2.0 s (from then to now)",
        "http:80/health",
        "failed",
        "It panicked.",
        "0 of 1 checks",
        "data:image/png",
    ):
        assert word in shown, word
    assert "<script" not in shown
    assert "db1 <b>" not in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("screenshot", ["", "no base64!", base64.b64encode(b"<svg>").decode()])
def test_what_is_no_picture_is_not_shown(screenshot: str) -> None:
    assert "No picture was taken" in html_of(report(screenshot=screenshot))
