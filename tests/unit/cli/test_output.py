"""What is printed is what was given: brackets in a name are no markup, control characters do nothing."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys

import pytest
import typer

import farshore.api_types
from farshore.api_types.body import Body, IsMoment
from farshore.api_types.events import Alert
from farshore.api_types.jobs import Job, JobStep
from farshore.cli import following, main, output
from farshore.cli.job import bar
from farshore.cli.output import LONG, PlainConsole, coloured, err, out, print_fields, print_table
from farshore.lab.demo.display import Display
from farshore.model.errors import Busy, NotFound, by_code
from farshore.model.states import JobState

BRACKETS = ("[/x]", "[/etc] backup", "before [x] upgrade", "[red]1[/red]", "[bold", ":warning:", r"\[x]")


@pytest.mark.parametrize("text", BRACKETS)
def test_brackets_are_shown_in_tables_fields_and_sentences(text, capsys):
    print_table((f"Column {text}",), [[f"row {text}"]], "")
    print_table(("Column",), [], f"nothing but {text}")
    print_fields([("Name", f"value {text}"), ("Coloured", coloured(f"word {text}", "red", f" rest {text}"))])
    out.print(f"sentence {text}")
    err.print(f"error {text}")
    shown = capsys.readouterr()
    for word in ("Column", "row", "nothing but", "value", "word", "rest", "sentence"):
        assert f"{word} {text}" in shown.out
    assert shown.err == f"error {text}\n"


def test_a_control_character_does_not_reach_the_terminal(capsys):
    evil = "db1\x1b]0;mine\x07\x9b2J\rgone"
    print_table(("Name",), [[evil]], "")
    print_fields([("Name", evil)])
    out.print(coloured(evil, "red", evil))
    out.print("two\nlines")
    shown = capsys.readouterr().out
    assert "db1�]0;mine��2J�gone" in shown
    assert "two\nlines" in shown
    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(shown)


def fails_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> int:
    def command() -> None:
        raise error

    monkeypatch.setattr(main, "commands", command)
    with pytest.raises(SystemExit) as ended:
        main.app()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_an_error_shows_the_brackets_in_its_message_and_remedy(monkeypatch, capsys):
    status = fails_with(monkeypatch, NotFound("No point '[/x]'.", remedy="See [/y]."))
    assert status == NotFound.exit_status
    assert capsys.readouterr().err == "Error: No point '[/x]'.\nRemedy: See [/y].\n"


@pytest.mark.parametrize("error", [NotFound("No '[/x]'.", remedy="See [/y]."), Busy("Full.", remedy="Wait.", after=1)])
def test_with_json_an_error_is_one_json_object_on_standard_error(monkeypatch, capsys, error):
    monkeypatch.setattr(sys, "argv", ["farshore", "point", "list", "db1", "--json"])
    assert fails_with(monkeypatch, error) == error.exit_status
    told = capsys.readouterr()
    assert told.out == ""
    assert json.loads(told.err) == {"code": error.code, "message": error.message, "remedy": error.remedy}


def test_json_for_an_error_of_the_whole_program(tmp_path):
    """Nothing answers there: the program as a script calls it, and ``up`` with what it starts."""
    environment = {**os.environ, "FARSHORE_CREDENTIALS": str(tmp_path / "none.json"), "FARSHORE_HOME": str(tmp_path)}
    for words, code in (
        (["machine", "list"], "not-found"),
        (["up", "--vault", "nonsense://x"], "malformed"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "farshore.cli.main", *words, "--json"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == by_code()[code].exit_status, done.stderr
        assert json.loads(done.stderr)["code"] == code
        assert done.stdout == ""


def test_a_failed_job_shows_the_brackets_in_its_error(capsys):
    job = Job(
        id="1",
        kind="point",
        subject="machine/1",
        state=JobState.FAILED,
        created=1,
        error="'[/x]' is taken.",
        remedy="Not [/y].",
    )
    with pytest.raises(typer.Exit):
        following.finish(None, job, as_json=False)
    assert capsys.readouterr().err == "point failed. '[/x]' is taken.\nRemedy: Not [/y].\n"


def test_a_name_that_a_request_may_not_hold_is_refused_with_its_field(monkeypatch, capsys, tmp_path):
    (tmp_path / "key").write_text("secret")
    words = ["farshore", "machine", "add", "db1", "--ssh-key", str(tmp_path / "key"), "--name", "x" * 201]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main.app()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("Error: --name takes 200 characters at most.\nRemedy: ")
    assert "xxx" not in told
    assert "secret" not in told


def test_the_demo_shows_brackets(capsys):
    display = Display()
    display.find("What [/x]", "differ: [/y] [1, 2]", good=False)
    with display.stage("stage [/x]") as stage:
        stage.tell("note [/y]")
    assert not display.close()
    shown = capsys.readouterr().out
    for text in ("What [/x]", "differ: [/y] [1, 2]", "BAD", "stage [/x]", "note [/y]"):
        assert text in shown


def test_what_is_to_be_coloured_is():
    console = PlainConsole(force_terminal=True, color_system="standard")
    with console.capture() as written:
        console.print(coloured("[/x]", "red", " plain"))
    assert written.get() == "\x1b[31m[/x]\x1b[0m plain\n"


@pytest.mark.parametrize(("fraction", "shown"), [(0.0, ""), (0.5, f"{'━' * 12}{'·' * 12} "), (1.0, "")])
def test_a_job_under_way_shows_how_far_it_is(fraction: float, shown: str) -> None:
    assert bar(fraction) == shown


def test_a_long_table_looks_like_a_short_one(capsys):
    rows = [[f"m{number}", "é世界" * (number % 3), "\x1b[31m[/x]", "-"] for number in range(LONG + 1)]
    print_table(("Name", "Wide", "Evil", "Last"), rows[:40], "")
    short = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    print_table(("Name", "Wide", "Evil", "Last"), [*rows[:40], *[["m1", "", "", "-"]] * LONG], "")
    assert capsys.readouterr().out.splitlines()[:41] == short
    print_table(("Name", "Wide"), [["two\nlines", ""]] * (LONG + 1), "")
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * (LONG + 1)


def test_times_in_json_are_rfc_3339_and_null_where_there_is_none(capsys):
    steps = [
        JobStep(name="cut", state=JobState.SUCCEEDED, started=1_769_860_800_000_000_000),
        JobStep(name="store", state=JobState.RUNNING),
    ]
    job = Job(id="j", kind="point", subject="m", state=JobState.SUCCEEDED, created=1_769_860_800_000_000_001,
              steps=steps, result={"time": 1_769_860_800_000_000_000, "epoch": 1})  # fmt: skip
    output.print_json([job])
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["created"] == "2026-01-31T12:00:00.000000001Z"
    assert shown["ended"] is None
    assert [one["started"] for one in shown["steps"]] == ["2026-01-31T12:00:00.000000000Z", None]
    assert shown["result"] == {"time": "2026-01-31T12:00:00.000000000Z", "epoch": 1}
    output.print_json(
        {"alerts": [Alert(id=1, kind="k", subject="s", severity="error", message="", remedy="", raised=1)]}
    )
    assert json.loads(capsys.readouterr().out)["alerts"][0]["raised"] == "1970-01-01T00:00:00.000000001Z"


def bodies(kind=Body):
    """Every body of the API."""
    for module in pkgutil.iter_modules(farshore.api_types.__path__):
        importlib.import_module(f"farshore.api_types.{module.name}")
    return {kind, *(one for below in kind.__subclasses__() for one in bodies(below))}


TIME = re.compile(
    r"(^|_)(time|since|last_seen|started|ended|created|requested|delivered|checked|raised|cleared|until)$"
)


def test_every_time_of_the_api_is_marked_as_one():
    """Else a command would print it as a number."""
    times = [
        (body.__name__, name, any(isinstance(mark, IsMoment) for mark in field.metadata))
        for body in bodies()
        for name, field in body.model_fields.items()
        if field.annotation is int and TIME.search(name)
    ]
    assert len(times) > 30
    assert [f"{body}.{name}" for body, name, marked in times if not marked] == []
