from __future__ import annotations

import ssl

import pytest
from urllib3.exceptions import MaxRetryError, NewConnectionError, SSLError

from farshore.api_types.body import Problem
from farshore.client.problems import error_from_answer, error_from_transport
from farshore.model.errors import (
    Busy,
    FarshoreError,
    Forbidden,
    Gap,
    Refused,
    TryLater,
    Unauthenticated,
    Unreachable,
    by_code,
)


def problem(code: str, status: int = 409, **more: object) -> bytes:
    fields = {"type": f"urn:farshore:{code}", "title": "No", "status": status, "detail": "No way.", "remedy": "Do."}
    return Problem.model_validate({**fields, **more}).model_dump_json().encode()


@pytest.mark.parametrize("code", sorted(by_code()))
def test_every_code_comes_back_as_its_class(code: str) -> None:
    error = error_from_answer(409, problem(code, expected=7))
    assert type(error) is by_code()[code]
    assert (error.message, error.remedy) == ("No way.", "Do.")


def test_a_gap_says_what_must_come_next() -> None:
    error = error_from_answer(409, problem("gap", expected=17))
    assert isinstance(error, Gap)
    assert error.expected == 17


def test_busy_says_how_long_to_wait() -> None:
    error = error_from_answer(429, problem("busy", 429), "3")
    assert isinstance(error, Busy)
    assert error.after == 3.0


@pytest.mark.parametrize(
    ("status", "kind"), [(500, Unreachable), (429, Busy), (401, Unauthenticated), (403, Forbidden), (418, Refused)]
)
def test_an_answer_that_is_no_problem_document(status: int, kind: type[FarshoreError]) -> None:
    assert type(error_from_answer(status, b"<html>proxy</html>")) is kind


def test_an_unknown_code_keeps_its_family() -> None:
    assert type(error_from_answer(503, problem("from-the-future", 503))) is TryLater
    assert type(error_from_answer(409, problem("from-the-future"))) is Refused


def test_a_certificate_that_is_not_ours_is_final_and_a_closed_port_is_not() -> None:
    inner = ssl.SSLCertVerificationError(1, "certificate verify failed")
    inner.verify_message = "self-signed certificate"
    wrapped = MaxRetryError(None, "/", SSLError(inner))  # type: ignore[arg-type]
    assert isinstance(error_from_transport(wrapped, "https://x"), Unauthenticated)
    closed = MaxRetryError(None, "/", NewConnectionError(None, "refused"))  # type: ignore[arg-type]
    assert isinstance(error_from_transport(closed, "https://x"), Unreachable)


@pytest.mark.parametrize(("code", "message"), [(9, "certificate is not yet valid"), (10, "certificate has expired")])
def test_a_handshake_refused_for_the_clocks_sake_says_so(code: int, message: str) -> None:
    inner = ssl.SSLCertVerificationError(1, "certificate verify failed")
    inner.verify_code, inner.verify_message = code, message
    wrapped = MaxRetryError(None, "/", SSLError(inner))  # type: ignore[arg-type]
    found = error_from_transport(wrapped, "https://x")
    assert isinstance(found, Unauthenticated)
    assert "clock" in found.message
    assert "timedatectl" in found.remedy
    alert = ssl.SSLError(1, "[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] sslv3 alert certificate expired")
    alert.reason = "SSLV3_ALERT_CERTIFICATE_EXPIRED"
    found = error_from_transport(MaxRetryError(None, "/", SSLError(alert)), "https://x")  # type: ignore[arg-type]
    assert "clock of the server" in found.message
