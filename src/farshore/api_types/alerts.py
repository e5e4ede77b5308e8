"""Alert channels, and the acknowledgement of alerts."""

from __future__ import annotations

import enum
from typing import Annotated, Dict, List

from pydantic import Field, SecretStr, StringConstraints

from farshore.api_types.body import LARGEST, Body, Label, Moment, Secret
from farshore.api_types.events import Severity
from farshore.api_types.sites import Setting

ChannelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", max_length=32)]
"""The name that people use: lower-case letters, digits and hyphens."""


class ChannelKind(enum.Enum):
    """The kind of a channel."""

    MAIL = "mail"
    WEBHOOK = "webhook"
    APPRISE = "apprise"
    """The services that the library apprise knows."""
    HEARTBEAT = "heartbeat"
    """A URL that is called while every RPO holds, and at no other time."""


class ChannelRequest(Body):
    """``POST /v1/alert-channels``. The settings depend on the kind."""

    name: ChannelName
    kind: ChannelKind
    settings: Dict[Label, Setting] = Field(default={}, max_length=32)
    secret: Secret = Field(default=SecretStr(""), max_length=16384)
    """Mail: the password. Webhook: the URL, and on a second line the signing key, which the server generates if it is
    missing. Apprise: a URL a line. Heartbeat: the URL. Sealed, and never returned."""
    severity: Severity = Severity.WARNING
    """Alerts below this are not sent."""
    repeat_every: Annotated[int, Field(ge=0, le=30 * 86400)] = 4 * 3600
    """Seconds after which an unacknowledged alert is sent again; 0: never."""


class Channel(Body):
    """A channel, without its secret."""

    name: str
    kind: ChannelKind
    settings: Dict[str, Setting] = {}
    severity: Severity
    repeat_every: int
    created: Moment
    delivered: Moment = 0
    """When it last accepted a message; 0: never."""
    trouble: str = ""
    """Why it did not accept the last message; empty: it did."""
    trouble_since: Moment = 0


class NewChannel(Channel):
    """The answer to creating it. ``signing_key`` of a webhook is shown only here."""

    signing_key: str = ""


class ChannelTest(Body):
    """The result of a test. ``warning``: what went wrong although the message was accepted."""

    warning: str = ""


class Acknowledgement(Body):
    """``POST /v1/alerts/acknowledgements``: a user has seen these alerts; they are not sent again."""

    alerts: List[Annotated[int, Field(ge=0, le=LARGEST)]] = Field(min_length=1, max_length=1000)
