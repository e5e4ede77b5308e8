"""The content that a channel sends: some alerts in one message, as a subject, a text and JSON."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from farshore.api_types.events import Severity

_HEADS = {"raised": "New", "open": "Still open", "over": "Over"}
_MOST_SUBJECT = 150


@dataclass(frozen=True)
class Notice:
    """One alert. ``state``: raised, open (sent before, not acknowledged) or over. Times in ns since 1970 UTC."""

    state: str
    alert: int
    kind: str
    severity: Severity
    subject: str
    message: str
    remedy: str
    raised: int
    cleared: int = 0


@dataclass(frozen=True)
class Message:
    """What is sent together. ``server``: the URL of the configuration server. ``test``: a test message, not an
    alert."""

    server: str
    time: int
    notices: tuple[Notice, ...] = ()
    test: bool = False

    @property
    def severity(self) -> Severity:
        """The worst severity of alerts that are not over."""
        worst = [one.severity for one in self.notices if one.state != "over"]
        return max(worst, key=list(Severity).index, default=Severity.INFORMATION)

    def title(self) -> str:
        """Return the subject, one line."""
        if self.test:
            return "[Farshore] Test of an alert channel"
        if len(self.notices) == 1:
            (one,) = self.notices
            text = f"[Farshore] {_HEADS[one.state]}: {' '.join(one.message.split())}"
            return text if len(text) <= _MOST_SUBJECT else text[: _MOST_SUBJECT - 1] + "…"
        counted = {state: sum(one.state == state for one in self.notices) for state in _HEADS}
        return "[Farshore] Alerts: " + ", ".join(
            f"{counted[state]} {head.lower()}" for state, head in _HEADS.items() if counted[state]
        )

    def text(self) -> str:
        """Format the message for people, new alerts first."""
        return "\n".join(self._lines()) + "\n"

    def document(self) -> dict[str, Any]:
        """Return the message for programs."""
        return {
            "type": "farshore.alerts.test" if self.test else "farshore.alerts",
            "timestamp": utc_text(self.time),
            "data": {"server": self.server, "alerts": [_fields(one) for one in self.notices]},
        }

    def _lines(self) -> Iterator[str]:
        yield f"Farshore at {self.server}, {utc_text(self.time)}"
        if self.test:
            yield ""
            yield "This is a test: farshore alert test. Alerts reach you on this channel."
        for state, head in _HEADS.items():
            some = [one for one in self.notices if one.state == state]
            if some:
                yield ""
                yield head
            for one in some:
                yield f"- {one.severity.value}, since {utc_text(one.raised)}: {one.message}"
                if state == "over":
                    yield f"  Over since {utc_text(one.cleared)}."
                else:
                    yield f"  What to do: {one.remedy}"
                    yield f"  Seen? farshore alert acknowledge {one.alert}"


def utc_text(time: int) -> str:
    """Format ns since 1970 UTC as RFC 3339."""
    return datetime.datetime.fromtimestamp(time // 10**9, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _fields(one: Notice) -> dict[str, Any]:
    return {
        "state": one.state,
        "id": one.alert,
        "kind": one.kind,
        "severity": one.severity.value,
        "subject": one.subject,
        "message": one.message,
        "remedy": one.remedy,
        "raised": utc_text(one.raised),
        "cleared": utc_text(one.cleared) if one.cleared else None,
    }
