"""What every REST body shares: strict models, and the kinds of texts and numbers that they are made of.

Every text, list and number of a request has a bound; a test walks all request bodies and fails for one that has none.
A server refuses control characters and surrogates anywhere in a body before these types see it (web/texts.py). The
types whose texts programs write (``Prose``, ``Shown``) also clean what they are given, so that a program never fails
over the words of somebody else's error.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    StringConstraints,
    model_validator,
)

LARGEST = (1 << 63) - 1
"""What a column of the catalog holds at most."""
LABEL_LENGTH, PROSE_LENGTH = 200, 4000

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""What no text of a body may hold: control characters but tab and line breaks, and halves of surrogate pairs."""
_BREAKS = re.compile("[\t\r\n]")


def clean(text: Any) -> Any:
    """Return the text with a mark in place of what ``CONTROL`` finds, cut to ``PROSE_LENGTH``; what is no text as it
    is."""
    if not isinstance(text, str):
        return text
    marked = CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    return marked if len(marked) <= PROSE_LENGTH else marked[: PROSE_LENGTH - 1] + "…"


def clean_line(text: Any) -> Any:
    """Return the same on one line, cut to ``LABEL_LENGTH``."""
    return _BREAKS.sub(" ", clean(text))[:LABEL_LENGTH] if isinstance(text, str) else text


Label = Annotated[str, StringConstraints(max_length=LABEL_LENGTH, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""A name that somebody chose freely: of a length that a table can show, and without control characters, which could
drive the terminal of whoever lists it."""
Shown = Annotated[str, StringConstraints(max_length=LABEL_LENGTH), BeforeValidator(clean_line)]
"""A line that a program found somewhere: what does not belong into a line is replaced, what is too long is cut."""
Prose = Annotated[str, StringConstraints(max_length=PROSE_LENGTH), BeforeValidator(clean)]
"""A message for people, lines and tabs included, cleaned and cut as ``Shown`` is."""
Pem = Annotated[str, StringConstraints(max_length=16384, pattern=r"^[\x20-\x7e\r\n]*$")]
"""Certificates, requests and keys."""
Token = Annotated[str, StringConstraints(max_length=200, pattern=r"^[\x21-\x7e]*$")]
"""A secret in ASCII."""
Secret = Annotated[SecretStr, PlainSerializer(lambda secret: secret.get_secret_value(), when_used="json")]
"""A secret that is shown on the wire alone: not in a repr, a traceback or a dump for Python."""
Url = Annotated[str, StringConstraints(max_length=400, pattern=r"^[\x21-\x7e]*$")]
Natural = Annotated[int, Field(ge=0, le=LARGEST)]
"""A count, a size, a sequence or a time."""


class IsMoment:
    """Marks a field as a time, ns since 1970 UTC, 0 for none: so that programs that print it can do so as a time."""


Moment = Annotated[int, Field(ge=0, le=LARGEST), IsMoment()]
Seconds = Annotated[float, Field(ge=0, le=1e12)]


class Body(BaseModel):
    """A strict body: unknown fields are refused in requests, so a misspelt setting is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_more_fields_than_there_are(cls, value: Any) -> Any:
        """One error for an object of many unknown fields, in place of one for each."""
        if isinstance(value, dict) and len(value) > len(cls.model_fields):
            odd = next(clean_line(str(name)) for name in value if name not in cls.model_fields)
            raise ValueError(f"unknown field {odd!r}")
        return value


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
