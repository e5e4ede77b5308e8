"""The sealed form of a push's login: a private key alone, or a JSON object with a password."""

from __future__ import annotations

import json

from farshore.model.errors import Malformed


def sealed_as(account: str) -> str:
    """Return the name that a push account's secret is sealed under."""
    return f"push-account/{account}"


def as_secret(private_key: str, password: str) -> bytes:
    """Return the bytes to seal. Raises Malformed unless there is exactly one of the two."""
    if bool(private_key) == bool(password):
        raise Malformed(
            "SSH needs either a private key or a password.", remedy="Give one of them, or the name of a push account."
        )
    return private_key.encode() if private_key else json.dumps({"password": password}).encode()


def from_secret(secret: bytes) -> tuple[str, str]:
    """Return the private key and the password; one of them is empty."""
    text = secret.decode()
    return ("", str(json.loads(text)["password"])) if text.startswith("{") else (text, "")


def parse_jump(text: str, user: str) -> tuple[str, int, str]:
    """Return host, port and user of ``[USER@]HOST[:PORT]``; ``[…]`` around an IPv6 address. Raises Malformed."""
    name, at, place = text.rpartition("@")
    host, colon, port = place, "", ""
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        colon, port = rest[:1], rest[1:]
    elif place.count(":") == 1:
        host, colon, port = place.partition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else 0
    if not host or (at and not name) or (colon and not 0 < number < 65536) or colon not in ("", ":"):
        raise Malformed(f"{text!r} is not a jump host.", remedy="Write it as [USER@]HOST[:PORT].")
    return host, number or 22, name or user
