"""Types of parameters in paths and queries, each with its limit."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from farshore.api_types.body import LABEL_LENGTH, LARGEST

_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]*$"

Named = Annotated[str, Path(max_length=LABEL_LENGTH, pattern=_PATTERN)]
"""A name or an id in a path."""
Number = Annotated[int, Path(ge=0, le=LARGEST)]
Wanted = Annotated[str | None, Query(max_length=LABEL_LENGTH, pattern=_PATTERN)]
"""A text to search for."""
Place = Annotated[int, Query(ge=0, le=LARGEST)]
"""An id or a time at which a list begins or ends."""
