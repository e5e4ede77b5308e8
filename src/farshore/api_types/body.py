"""What every REST body shares."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Label = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""A name that somebody chose freely: of a length that a table can show, and without control characters, which could
drive the terminal of whoever lists it."""


class Body(BaseModel):
    """A strict body: unknown fields are refused in requests, so a misspelt setting is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(BaseModel):
    """An error answer (RFC 9457). ``type`` is ``urn:farshore:<code>`` of farshore.model.errors."""

    type: str
    title: str
    status: int
    detail: str
    remedy: str = ""
    expected: int = 0
    """For ``gap``: the sequence that must come next."""
    retry_after: float = 0
