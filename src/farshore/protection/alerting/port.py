"""The port of the channels, and checks that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from farshore.api_types.sites import Setting
from farshore.model.errors import Malformed
from farshore.protection.alerting.message import Message


class Channel(Protocol):
    """Sends messages. Opened for each message: it keeps no connection."""

    def send(self, message: Message) -> str:
        """Deliver the message: it is accepted when this returns. Return what went wrong nevertheless, or "".

        Raises TryLater (it may be accepted later), Refused (something must be fixed first). A message may be sent
        twice: the server may die after the delivery and before its note of it. No error contains a secret."""
        ...


@dataclass(frozen=True)
class WantedSetting:
    """One setting of a kind. ``default`` None: it is required."""

    kind: type
    default: Setting | None = None


def checked(settings: Mapping[str, Setting], wanted: Mapping[str, WantedSetting]) -> dict[str, Setting]:
    """Return all settings of a kind, with their defaults. Raises Malformed."""
    names = ", ".join(wanted) or "none"
    for name in settings:
        if name not in wanted:
            raise Malformed(f"There is no setting {name!r} of this kind.", remedy=f"Valid settings: {names}.")
    found: dict[str, Setting] = {}
    for name, rule in wanted.items():
        value = settings.get(name, rule.default)
        if value is None:
            raise Malformed(f"The setting {name!r} is missing.", remedy=f"Give it: --setting {name}=VALUE")
        if type(value) is not rule.kind:
            raise Malformed(f"The setting {name!r} is not a {rule.kind.__name__}.", remedy="Give another value.")
        found[name] = value
    return found


def one_line(secret: str, what: str) -> str:
    """Return the secret's only line. Raises Malformed."""
    lines = secret.split()
    if len(lines) != 1:
        raise Malformed(f"The secret must be {what}, on one line.", remedy="Give it with --secret-file.")
    return lines[0]
