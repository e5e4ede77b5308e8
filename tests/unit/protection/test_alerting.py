"""What channels are told and when, and what a message says. Real servers: scenarios/control/test_alerting.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.protection.catalogs import NOW, SECOND

from farshore.api_types.alerts import ChannelKind, ChannelRequest
from farshore.api_types.events import Severity
from farshore.catalog.machines import WatchedMachine
from farshore.catalog.tables import AlertChannelRow, AlertNoticeRow, AlertRow, PolicyRow
from farshore.client.proxies import proxy_for
from farshore.model.errors import FarshoreError, Malformed
from farshore.model.states import MachineState
from farshore.protection.alerting.due import TOGETHER, due
from farshore.protection.alerting.heartbeat import broken
from farshore.protection.alerting.message import Message, Notice
from farshore.protection.alerting.registry import open_channel

HOUR = 3600 * SECOND
CHANNEL = AlertChannelRow(name="ops", kind="mail", severity="warning", repeat_every=3600)
KEY = "whsec_" + "QUFB" * 10 + "QUE="
MAIL = {"host": "mail.example.com", "from": "dr@example.com", "to": "a@example.com, b@example.com"}


def alert(number: int, age: int = HOUR, severity: str = "error", **more: int) -> AlertRow:
    row = AlertRow(
        id=number, kind="rpo-exceeded", severity=severity, subject="machine/1", message="Old.", remedy="Look.",
        raised=NOW - age,
    )  # fmt: skip
    row.cleared, row.acknowledged = more.get("cleared", 0), more.get("acknowledged", 0)
    return row


def told(number: int, ago: int, over: int = 0) -> AlertNoticeRow:
    return AlertNoticeRow(channel="ops", alert=number, sent=NOW - ago, over=over)


def states(alerts: list[AlertRow], notices: list[AlertNoticeRow], channel: AlertChannelRow = CHANNEL) -> list[str]:
    found = due(channel, alerts, {one.alert: one for one in notices}, NOW)
    return [f"{one.alert} {one.state}" for one in found]


def test_a_new_alert_is_told_once() -> None:
    assert states([alert(1)], []) == ["1 raised"]
    assert states([alert(1)], [told(1, SECOND)]) == []


def test_alerts_that_come_together_go_together() -> None:
    assert states([alert(1, TOGETHER - 1), alert(2, 0)], []) == []
    assert states([alert(1, TOGETHER), alert(2, 0)], []) == ["1 raised", "2 raised"]
    assert states([alert(1, -HOUR)], []) == ["1 raised"], "a clock that was set back holds nothing up"


def test_what_is_below_the_channels_severity_is_not_told() -> None:
    assert states([alert(1, severity="information"), alert(2, severity="warning")], []) == ["2 raised"]


def test_it_is_repeated_until_somebody_acknowledges_it() -> None:
    assert states([alert(1, 9 * HOUR)], [told(1, HOUR)]) == ["1 open"]
    assert states([alert(1, 9 * HOUR)], [told(1, HOUR - 1)]) == []
    assert states([alert(1, 9 * HOUR, acknowledged=NOW - 1)], [told(1, HOUR)]) == []
    never = AlertChannelRow(name="ops", kind="mail", severity="warning", repeat_every=0)
    assert states([alert(1, 9 * HOUR)], [told(1, 8 * HOUR)], never) == []


def test_the_end_is_told_of_what_was_told_also_where_it_was_acknowledged() -> None:
    over = NOW - HOUR
    assert states([alert(1, cleared=over), alert(2, cleared=over)], [told(1, HOUR)]) == ["1 over"]
    assert states([alert(1, cleared=over, acknowledged=over)], [told(1, HOUR)]) == ["1 over"]
    assert states([alert(1, cleared=over)], [told(1, HOUR, over=NOW)]) == []


def notice(number: int, state: str) -> Notice:
    return Notice(state, number, "k", Severity.ERROR, "machine/1", "Line\nbreak.", "Do it.", NOW, NOW)


def test_a_message_says_what_to_do() -> None:
    one = Message("https://dr:443", NOW, (notice(3, "raised"),))
    assert one.title() == "[Farshore] New: Line break."
    assert "What to do: Do it." in one.text()
    assert "farshore alert acknowledge 3" in one.text()
    several = Message("https://dr:443", NOW, (notice(1, "over"), notice(2, "raised"), notice(4, "raised")))
    assert several.title() == "[Farshore] Alerts: 2 new, 1 over"
    assert several.text().index("New") < several.text().index("Over")
    assert several.severity is Severity.ERROR
    assert Message("u", NOW, (notice(1, "over"),)).severity is Severity.INFORMATION
    assert several.document()["timestamp"] == "2027-01-15T08:00:00Z"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # apprise 2.3, on Python 3.11
@pytest.mark.parametrize(
    ("kind", "settings", "secret"),
    [
        (ChannelKind.MAIL, {}, ""),
        (ChannelKind.MAIL, {**MAIL, "colour": "red"}, ""),
        (ChannelKind.MAIL, {**MAIL, "user": "dr"}, ""),
        (ChannelKind.MAIL, {**MAIL, "user": "dr", "encryption": "none"}, "s3cret"),
        (ChannelKind.MAIL, {**MAIL, "encryption": "rot13"}, ""),
        (ChannelKind.MAIL, {**MAIL, "to": "nobody"}, ""),
        (ChannelKind.MAIL, {**MAIL, "from": "a@b\r\nBcc: c@d"}, ""),
        (ChannelKind.WEBHOOK, {}, "https://hooks.example.com/s3cret"),
        (ChannelKind.WEBHOOK, {}, f"http://hooks.example.com/s3cret {KEY}"),
        (ChannelKind.WEBHOOK, {}, "https://hooks.example.com/s3cret whsec_c2hvcnQ="),
        (ChannelKind.HEARTBEAT, {}, "ftp://hc.example.com/s3cret"),
        (ChannelKind.HEARTBEAT, {}, ""),
        (ChannelKind.APPRISE, {}, ""),
        (ChannelKind.APPRISE, {}, "file:///etc/s3cret"),
        (ChannelKind.APPRISE, {}, "nosuch://s3cret"),
    ],
)
def test_what_cannot_work_is_refused_and_no_secret_is_said(kind: ChannelKind, settings: dict, secret: str) -> None:
    with pytest.raises(FarshoreError) as refused:
        open_channel(kind, settings, secret)
    assert isinstance(refused.value, Malformed)
    assert "s3cret" not in str(refused.value)


def test_a_request_shows_its_secret_on_the_wire_alone() -> None:
    made = ChannelRequest.model_validate({"name": "ops", "kind": "heartbeat", "secret": "https://x/s3cret"})
    assert "s3cret" in made.model_dump_json()
    assert "s3cret" not in repr(made)
    assert "s3cret" not in str(made.model_dump())


def watched(name: str, state: MachineState, age: int | None) -> WatchedMachine:
    newest = 0 if age is None else NOW - age * SECOND
    return WatchedMachine(name, name, state.value, "p", None, "", "", {}, NOW, newest, "", 0.0, 0, None)


def test_a_heartbeat_is_owed_while_every_rpo_holds() -> None:
    policies = [PolicyRow(name="p", rpo_threshold=30)]
    well = watched("a", MachineState.PROTECTED, 30)
    copying = watched("c", MachineState.INITIAL_REPLICATION, None)
    assert broken([well, copying], policies, NOW) == ""
    assert "b" in broken([well, watched("b", MachineState.PROTECTED, 31)], policies, NOW)
    assert "b" in broken([well, watched("b", MachineState.RESYNC, 31)], policies, NOW)
    assert "no recovery point" in broken([well, watched("b", MachineState.PROTECTED, None)], policies, NOW)
    assert broken([copying], policies, NOW) == "No machine is protected."


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://dr.example.com/x", "http://proxy:3128"),
        ("https://inside.example.org/x", None),
        ("https://127.0.0.1:8443/x", None),
        ("http://dr.example.com/x", None),
    ],
)
def test_the_proxy_is_the_environments(url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "example.org")
    assert proxy_for(url) == proxy


def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy:1080")
    with pytest.raises(Malformed, match=r"dr\.example\.com"):
        proxy_for("https://dr.example.com")
