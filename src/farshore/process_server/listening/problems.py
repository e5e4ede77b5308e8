"""Errors as answers: RFC 9457 problem documents (farshore.api_types.body.Problem)."""

from __future__ import annotations

from farshore.api_types.body import Problem
from farshore.model.errors import FarshoreError, Gap, TryLater
from farshore.process_server.listening.exchange import Answer


def problem_answer(error: FarshoreError) -> Answer:
    """Return the answer for ``error``; farshore.client converts it back to the same class."""
    after = (error.after or 0) if isinstance(error, TryLater) else 0
    problem = Problem(
        type=f"urn:farshore:{error.code}",
        title=error.code.replace("-", " "),
        status=error.http_status,
        detail=error.message,
        remedy=error.remedy,
        expected=error.expected if isinstance(error, Gap) else 0,
        retry_after=after,
    )
    headers = {"Retry-After": str(max(1, round(after)))} if after else {}
    return Answer(error.http_status, "application/problem+json", [problem.model_dump_json().encode()], headers)
