"""The details in the event of a change: the old and the new value of each changed field.

A created object has no old values, a deleted one no new values. Secrets are never among the values: callers name the
fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Details = dict[str, Any]
"""By field: {"old": value, "new": value}. None stands for a value that does not exist."""


def fields_of(row: object, names: Iterable[str]) -> dict[str, Any]:
    """Return these values of a row. Call it before the row changes."""
    return {name: getattr(row, name) for name in names}


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Details:
    """Return the fields that differ; a missing one is None."""
    names = dict.fromkeys([*before, *after])
    return {
        name: {"old": before.get(name), "new": after.get(name)} for name in names if before.get(name) != after.get(name)
    }


def made(values: Mapping[str, Any]) -> Details:
    """Return the details of a new row."""
    return {name: {"old": None, "new": value} for name, value in values.items()}


def gone(values: Mapping[str, Any]) -> Details:
    """Return the details of a deleted row."""
    return {name: {"old": value, "new": None} for name, value in values.items()}


def in_words(details: Details) -> str:
    """Return ``field from old to new`` of each."""
    said = [f"{name} from {_shown(value['old'])} to {_shown(value['new'])}" for name, value in details.items()]
    return ", ".join(said) or "nothing is new"


def _shown(value: Any) -> str:
    return "none" if value is None or value in ("", [], {}) else str(value)
