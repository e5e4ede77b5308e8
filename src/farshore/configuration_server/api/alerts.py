"""Routes for alert channels, and for acknowledging alerts. The list of alerts: api/events.py."""

from __future__ import annotations

from typing import Any

from farshore.api_types.alerts import Acknowledgement, Channel, ChannelKind, ChannelRequest, ChannelTest, NewChannel
from farshore.api_types.events import Alert
from farshore.catalog import alert_channels, events
from farshore.catalog.change_details import Details, changed, fields_of, gone, made
from farshore.catalog.database import Transaction
from farshore.catalog.tables import AlertChannelRow
from farshore.configuration_server.api import views
from farshore.configuration_server.api.parameters import Named
from farshore.configuration_server.identity import Identity
from farshore.configuration_server.services import Services
from farshore.configuration_server.web.callers import Contributor, Installation, Operator, Reader
from farshore.configuration_server.web.gate import GatedRouter
from farshore.protection.alerting.registry import open_channel, sealed_as
from farshore.protection.alerting.telling import Telling
from farshore.protection.alerting.webhook import new_key

router = GatedRouter(prefix="/v1", tags=["alerts"])


@router.get("/alert-channels")
def list_alert_channels(_user: Reader, installation: Installation) -> list[Channel]:
    """Return all channels on which alerts reach people."""
    with installation.catalog.reading() as tx:
        return [views.alert_channel(row) for row in alert_channels.every(tx)]


@router.post("/alert-channels", status_code=201)
def add_alert_channel(request: ChannelRequest, user: Contributor, installation: Installation) -> NewChannel:
    """Create a channel. Its secret is stored encrypted and never returned, except for a signing key that is generated
    here."""
    secret, signing_key = request.secret.get_secret_value(), ""
    if request.kind is ChannelKind.WEBHOOK and len(secret.split()) == 1:
        signing_key = new_key()
        secret = f"{secret.strip()}\n{signing_key}"
    open_channel(request.kind, request.settings, secret)
    row = AlertChannelRow(
        name=request.name,
        kind=request.kind.value,
        settings=request.settings,
        secret=installation.sealer.seal(sealed_as(request.name), secret.encode()) if secret else b"",
        severity=request.severity.value,
        repeat_every=request.repeat_every,
        created=installation.clock.now(),
    )
    with installation.catalog.writing() as tx:
        alert_channels.add(tx, row)
        _tell(tx, installation, user, "added", row.name, f"was added ({row.kind})", made(_values(row)))
        return NewChannel(**views.alert_channel(row).model_dump(), signing_key=signing_key)


@router.delete("/alert-channels/{name}", status_code=204)
def remove_alert_channel(name: Named, user: Contributor, installation: Installation) -> None:
    """Delete a channel: it gets no more alerts."""
    with installation.catalog.writing() as tx:
        details = gone(_values(alert_channels.get(tx, name)))
        alert_channels.remove(tx, name)
        _tell(tx, installation, user, "removed", name, "was removed", details)


@router.post("/alert-channels/{name}/test")
def try_alert_channel(name: Named, _user: Operator, installation: Installation) -> ChannelTest:
    """Send a test message now; a heartbeat URL is called if every RPO holds. Fails as the channel does."""
    services: Services = installation
    telling = Telling(services.catalog, services.clock, services.settings.base_url, services.sealer.open)
    return ChannelTest(warning=telling.test(name))


@router.post("/alerts/acknowledgements")
def acknowledge_alerts(request: Acknowledgement, user: Operator, installation: Installation) -> list[Alert]:
    """Acknowledge alerts: they are not sent again. A message is still sent when they are over."""
    now = installation.clock.now()
    with installation.catalog.writing() as tx:
        for row in alert_channels.acknowledge(tx, request.alerts, user.name, now):
            events.record(
                tx,
                time=now,
                kind=f"alert.acknowledged.{row.kind}",
                actor=user.actor,
                subject=row.subject,
                message=f"Seen: {row.message}",
                detail={"alert": row.id, **changed({"acknowledged_by": None}, {"acknowledged_by": user.name})},
            )
        rows = {row.id: row for row in events.open_alerts(tx)}
        return [views.alert(rows[alert]) for alert in request.alerts]


def _values(row: AlertChannelRow) -> dict[str, Any]:
    """Return what may be shown of a channel: everything except its secret."""
    return {
        **fields_of(row, ("kind", "settings", "severity", "repeat_every")),
        "secret": "sealed" if row.secret else "none",
    }


def _tell(
    tx: Transaction, installation: Services, user: Identity, kind: str, channel: str, what: str, detail: Details
) -> None:
    events.record(
        tx,
        time=installation.clock.now(),
        kind=f"alert-channel.{kind}",
        actor=user.actor,
        subject=f"alert-channel/{channel}",
        message=f"Alert channel {channel} {what}.",
        detail=detail,
    )
