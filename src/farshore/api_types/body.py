"""What every REST body shares."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


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
