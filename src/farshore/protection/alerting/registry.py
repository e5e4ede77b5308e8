"""The kinds of channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from farshore.api_types.alerts import ChannelKind
from farshore.api_types.sites import Setting
from farshore.catalog.tables import AlertChannelRow
from farshore.protection.alerting.heartbeat import HeartbeatUrl
from farshore.protection.alerting.mail import Mail
from farshore.protection.alerting.port import Channel
from farshore.protection.alerting.services import Services
from farshore.protection.alerting.webhook import Webhook

KINDS: dict[ChannelKind, Callable[[Mapping[str, Setting], str], Channel]] = {
    ChannelKind.MAIL: Mail,
    ChannelKind.WEBHOOK: Webhook,
    ChannelKind.APPRISE: Services,
    ChannelKind.HEARTBEAT: HeartbeatUrl,
}
OpenSecret = Callable[[str, bytes], bytes]
"""Opens a sealed secret, by the name that it is sealed under."""


def open_channel(kind: ChannelKind, settings: Mapping[str, Setting], secret: str) -> Channel:
    """Return the channel. Raises Malformed for invalid settings or an invalid secret, Unsupported if a library is
    missing."""
    return KINDS[kind](settings, secret)


def sealed_as(channel: str) -> str:
    """Return the name that a channel's secret is sealed under."""
    return f"alert-channel/{channel}"


def opened(row: AlertChannelRow, unseal: OpenSecret) -> Channel:
    """Return the channel of a row. Raises WrongKey for a secret that was sealed with another key, and as
    ``open_channel``."""
    secret = unseal(sealed_as(row.name), row.secret).decode() if row.secret else ""
    return open_channel(ChannelKind(row.kind), row.settings, secret)
