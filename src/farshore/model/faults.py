"""What is wrong with a value, in words: its bounds, and never a library's text or a bare pattern."""

from __future__ import annotations

from typing import Any, Mapping

_NAME = "{} letters, digits, '.', '_' and '-', beginning with a letter or a digit"
_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$": _NAME.format("takes 1 to 63"),
    r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$": _NAME.format("takes up to 63"),
    r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$": "takes 1 to 63 letters, digits and '-', beginning with a letter or a digit",
    r"^[a-z0-9][a-z0-9._-]{0,62}$": _NAME.format("takes 1 to 63 small"),
    r"^([a-z0-9][a-z0-9-]{0,31})?$": "takes up to 32 small letters, digits and '-', beginning with a letter or a digit",
    r"^[a-z0-9][a-z0-9-]{0,31}$": "takes 1 to 32 small letters, digits and '-', beginning with a letter or a digit",
    r"^(installation|machine|label:[A-Za-z0-9][A-Za-z0-9._-]{0,62})$": "takes installation, machine or label:NAME",
    r"^[^\x00-\x1f\x7f-\x9f]*$": "takes no control characters or line breaks",
    r"^[^\x00-\x20\x7f-\xa0]*$": "takes a name or an address, without spaces and control characters",
    r"^[\x20-\x7e\r\n]*$": "takes PEM text",
    r"^[\x21-\x7e]*$": "takes ASCII characters without spaces",
    r"^(/[\x21-\x7e]*)?$": "takes a path of a URL: ASCII characters without spaces, a '/' first",
    r"^https://[!-.0-~]+$": "takes a URL without a path: https://HOST:PORT",
    "^[a-z]*$": "takes small letters",
    r"^/[^\x00-\x1f\x7f-\x9f]*$": "takes a whole path, a '/' first, without control characters",
    r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,31}$": "takes a user's name: 1 to 32 letters, digits, '.', '_' and '-'",
    "^[0-9a-f]{64}$": "takes 64 hexadecimal digits",
    "^(qcow2)?$": "takes qcow2, or nothing for a raw file or a device",
}
_NUMBERS = {
    "greater_than_equal": ("ge", "takes a value of {} or more"),
    "greater_than": ("gt", "takes a value above {}"),
    "less_than_equal": ("le", "takes a value of {} at most"),
    "less_than": ("lt", "takes a value below {}"),
    "string_too_long": ("max_length", "takes {} characters at most"),
    "string_too_short": ("min_length", "takes {} characters or more"),
    "too_long": ("max_length", "takes {} entries at most"),
    "too_short": ("min_length", "takes {} entries or more"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "string": "a text",
    "bool": "true or false",
    "list": "a list",
    "dict": "an object",
    "model_attributes": "an object",
    "model": "an object",
    "bytes": "bytes",
    "decimal": "a number",
    "url": "a URL",
}


def sentence(fault: Mapping[str, Any]) -> str:
    """Return what the field of a pydantic error accepts, such as "takes a value of 1 or more". Never quotes the
    input."""
    kind, context = str(fault["type"]), fault.get("ctx") or {}
    if kind in _NUMBERS:
        name, words = _NUMBERS[kind]
        return words.format(context.get(name))
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(str(context.get("pattern")), "has a form that is not taken")
    if kind in ("enum", "literal_error"):
        return f"takes {str(context.get('expected', 'another value')).replace(chr(39), '')}"
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is not known here"
    if kind == "json_invalid":
        return "is not JSON"
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", "has a value that is not taken"))
    base = kind.rpartition("_")[0]
    return f"takes {_KINDS[base]}" if base in _KINDS else "has a value that is not taken"


def known_patterns() -> frozenset[str]:
    """Return the patterns that can be described in words."""
    return frozenset(_PATTERNS)
