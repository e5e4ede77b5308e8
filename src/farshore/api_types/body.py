"""What every REST body shares: strict models, and the types of texts and numbers in them.

Every text, list and number of a request has a limit; a test checks all request bodies and fails for one without. A
server refuses control characters and surrogates anywhere in a body before these types see it (web/texts.py). The types
for texts of programs (``Prose``, ``Shown``) also clean their input, so a program never fails because of the text of a
foreign error.
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
"""Maximum that a column of the catalog holds."""
LABEL_LENGTH, PROSE_LENGTH = 200, 4000

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""What no text of a body may contain: control characters except tab and line breaks, and unpaired surrogates."""
_BREAKS = re.compile("[\t\r\n]")


def clean(text: Any) -> Any:
    """Return the text with a mark in place of matches of ``CONTROL``, cut to ``PROSE_LENGTH``; a value that is not a
    text is unchanged."""
    if not isinstance(text, str):
        return text
    marked = CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    return marked if len(marked) <= PROSE_LENGTH else marked[: PROSE_LENGTH - 1] + "…"


def clean_line(text: Any) -> Any:
    """Return the same on one line, cut to ``LABEL_LENGTH``."""
    return _BREAKS.sub(" ", clean(text))[:LABEL_LENGTH] if isinstance(text, str) else text


Label = Annotated[str, StringConstraints(max_length=LABEL_LENGTH, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""A freely chosen name: short enough for a table, and without control characters, which could control the terminal of a
user who lists it."""
Shown = Annotated[str, StringConstraints(max_length=LABEL_LENGTH), BeforeValidator(clean_line)]
"""A line that a program read from elsewhere: characters that do not belong into a line are replaced, and it is
truncated."""
Prose = Annotated[str, StringConstraints(max_length=PROSE_LENGTH), BeforeValidator(clean)]
"""A message for people, including lines and tabs, cleaned and truncated as ``Shown`` is."""
Pem = Annotated[str, StringConstraints(max_length=16384, pattern=r"^[\x20-\x7e\r\n]*$")]
"""Certificates, requests and keys."""
Token = Annotated[str, StringConstraints(max_length=200, pattern=r"^[\x21-\x7e]*$")]
"""A secret in ASCII."""
Secret = Annotated[SecretStr, PlainSerializer(lambda secret: secret.get_secret_value(), when_used="json")]
"""A secret that is shown only on the wire: not in a repr, a traceback or a dump for Python."""
Url = Annotated[str, StringConstraints(max_length=400, pattern=r"^[\x21-\x7e]*$")]
Natural = Annotated[int, Field(ge=0, le=LARGEST)]
"""A count, a size, a sequence or a time."""


class IsMoment:
    """Marks a field as a time, ns since 1970 UTC, 0 for none, so that programs can print it as a time."""


Moment = Annotated[int, Field(ge=0, le=LARGEST), IsMoment()]
Seconds = Annotated[float, Field(ge=0, le=1e12)]


class Body(BaseModel):
    """A strict body: unknown fields are refused in requests, so a misspelt setting is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_more_fields_than_there_are(cls, value: Any) -> Any:
        """Raise one error for an object of many unknown fields, instead of one for each."""
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
