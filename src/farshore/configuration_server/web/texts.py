"""Refuse texts that no body may contain: control characters and unpaired surrogates.

One such text in the catalog would make every answer with it fail, control the terminal of a user who lists it, or stop
a database that stores UTF-8. Tabs and line breaks are allowed here; names have types that refuse them too.
"""

from __future__ import annotations

from typing import Any

from farshore.api_types.body import CONTROL
from farshore.model.errors import Malformed

_LOOKED_AT = frozenset({str, dict, list})


def check(value: Any) -> None:
    """Check a parsed JSON document of any depth. Raises Malformed at the first fault, naming its field."""
    if _is_bad(value):
        _name_it(value)


def _is_bad(value: Any) -> bool:
    """The fast check: it keeps no names, because it runs for every body, even a stranger's."""
    search = CONTROL.search
    waiting: list[Any] = [value]
    while waiting:
        found = waiting.pop()
        kind = type(found)
        if kind is dict:
            for name, inner in found.items():
                if search(name):
                    return True
                if inner and type(inner) in _LOOKED_AT:
                    waiting.append(inner)
        elif kind is list:
            waiting.extend([inner for inner in found if inner and type(inner) in _LOOKED_AT])
        elif kind is str and search(found):
            return True
    return False


def _name_it(value: Any) -> None:
    waiting: list[tuple[Any, str]] = [(value, "")]
    while waiting:
        found, where = waiting.pop()
        if isinstance(found, str):
            _check_text(found, where)
        elif isinstance(found, dict):
            for name, inner in found.items():
                _check_text(name, where)
                if isinstance(inner, (str, dict, list)):
                    waiting.append((inner, f"{where}.{name}" if where else name))
        elif isinstance(found, list):
            waiting.extend((inner, where) for inner in found if isinstance(inner, (str, dict, list)))


def _check_text(text: str, where: str) -> None:
    if CONTROL.search(text):
        raise Malformed(
            f"{where[:200] or 'body'}: a text holds a control character or half of a surrogate pair.",
            remedy="Send text without control characters, as valid Unicode.",
        )
