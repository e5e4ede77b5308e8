"""What a machine says about itself, and what stands in the way of protecting it."""

from __future__ import annotations

import asyncio
import json

import pytest

from farshore.model.errors import FarshoreError, NoSpace, Refused, Unsupported
from farshore.protection.push.survey import read_findings, read_survey, survey

GOOD = {
    "user": "0",
    "architecture": "x86_64",
    "kernel": "6.1.0-30-cloud-amd64",
    "btf": "yes",
    "systemd": "yes",
    "python": "3.11",
    "space": "4000000",
    "temporary": "4000000",
    "release": "releases/0.1.0-python3.11-abc",
}


def said(**changes: str) -> str:
    return "\n".join(f"{name}={value}" for name, value in (GOOD | changes).items() if value)


def test_a_good_machine() -> None:
    found = read_survey(said(), "db1")
    assert (found.kernel, found.python, found.btf) == ("6.1.0-30-cloud-amd64", (3, 11), True)
    assert found.release == "0.1.0-python3.11-abc"
    assert not read_survey(said(btf="", release=""), "db1").btf


@pytest.mark.parametrize("system", ["FreeBSD", "Darwin", "MINGW64_NT-10.0"])
def test_a_machine_without_linux_is_named(system: str) -> None:
    with pytest.raises(Unsupported, match=f"db1 runs {system}"):
        read_survey(said(system=system), "db1")


@pytest.mark.parametrize(
    "words",
    [
        "'sh' is not recognized as an internal or external command,\r\noperable program or batch file.",
        "sh : The term 'sh' is not recognized ... + FullyQualifiedErrorId : CommandNotFoundException",
    ],
)
def test_windows_is_named(words: str) -> None:
    class Shell:
        async def run(self, script: str, doing: str) -> str:
            raise Refused(f"{doing} on db1 failed (status 1): {words}", remedy="-")

    with pytest.raises(Unsupported, match="db1 runs Windows"):
        asyncio.run(survey(Shell(), "db1", "root"))  # type: ignore[arg-type]


def test_the_first_python_that_will_do_is_taken() -> None:
    assert read_survey(said(python="3.6\npython=\npython=3.9"), "db1").python == (3, 9)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"user": "1000"}, Refused, "not root"),
        ({"architecture": "aarch64"}, Unsupported, "aarch64"),
        ({"python": "3.6"}, Unsupported, "found: 3.6"),
        ({"python": ""}, Unsupported, "found: none"),
        ({"systemd": ""}, Unsupported, "systemd"),
        ({"space": "1000"}, NoSpace, "/opt"),
        ({"temporary": ""}, NoSpace, "/tmp"),
    ],
)
def test_each_obstacle_has_its_own_error(changes: dict[str, str], kind: type[FarshoreError], text: str) -> None:
    with pytest.raises(kind, match=text):
        read_survey(said(**changes), "db1")


def test_the_agents_own_check_is_read() -> None:
    findings = [
        {"subject": "clock", "severity": "warning", "message": "Wrong.", "remedy": "Set it."},
        {"subject": "disk sda", "severity": "error", "message": "A path.", "remedy": "Exclude it."},
        {"subject": "memory", "severity": "ok", "message": "Enough.", "remedy": ""},
    ]
    found = read_findings(json.dumps({"mode": "data", "findings": findings}))
    assert found.errors == ("disk sda: A path. (Exclude it.)",)
    assert found.warnings == ("clock: Wrong. (Set it.)",)
    with pytest.raises(Refused, match="cannot be read"):
        read_findings("Traceback …")
