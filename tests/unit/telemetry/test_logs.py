from __future__ import annotations

import io
import json
import logging
import threading
from typing import Iterator

import pytest

from farshore.model.errors import Unreachable
from farshore.telemetry.logs import configure

PEM = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, threading.excepthook
    yield
    threading.excepthook = hook
    root.handlers[:] = handlers
    root.setLevel(level)


def said(*, as_json: bool = False, **more: object) -> str:
    stream = io.StringIO()
    configure("test", as_json=as_json, stream=stream)
    logging.getLogger("part").warning("It went %s", "wrong", **more)  # type: ignore[arg-type]
    return stream.getvalue()


def test_a_line_has_time_level_and_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    line = said(extra={"fields": {"epoch": 3}})
    assert line.endswith("Z WARNING test part: It went wrong epoch=3\n")


def test_under_the_journal_the_priority_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert said() == "<4>part: It went wrong\n"


def test_json_is_one_object_a_line() -> None:
    entry = json.loads(said(as_json=True, extra={"fields": {"epoch": 3}}))
    assert (entry["level"], entry["message"], entry["epoch"]) == ("WARNING", "It went wrong", 3)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_key_never_gets_out(as_json: bool) -> None:
    stream = io.StringIO()
    configure("test", as_json=as_json, stream=stream)
    logging.getLogger("part").error("Look: %s", PEM)
    assert "secret" not in stream.getvalue()
    assert "[key removed]" in stream.getvalue()


def test_errors_of_ours_are_told_in_a_sentence_and_others_with_their_traceback() -> None:
    def failing(error: Exception) -> str:
        stream = io.StringIO()
        configure("test", stream=stream)
        try:
            raise error
        except Exception:
            logging.getLogger("part").exception("Failed.")
        return stream.getvalue()

    assert failing(Unreachable("Away.", remedy="Wait.")).rstrip().endswith("Failed. Away. Wait.")
    assert "Traceback" in failing(ValueError("odd"))


def test_what_a_message_quotes_forges_no_line_and_drives_no_terminal() -> None:
    stream = io.StringIO()
    configure("test", stream=stream)
    logging.getLogger("part").warning("The host said: %s", "no\n<0>kernel: panic \x1b[2J\ud800")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
