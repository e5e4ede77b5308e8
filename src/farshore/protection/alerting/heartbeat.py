"""Call a URL while every RPO holds, and at no other time: silence is the alarm, even if this server dies.

It is for a service that raises an alarm when the calls stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from farshore.api_types.sites import Setting
from farshore.catalog.machines import WatchedMachine
from farshore.catalog.tables import PolicyRow
from farshore.model.errors import WrongState
from farshore.protection.alerting.calls import call, check_url
from farshore.protection.alerting.message import Message
from farshore.protection.alerting.port import WantedSetting, checked, one_line
from farshore.protection.watch import WATCHED, rpo_seconds


class HeartbeatUrl:
    """``every``: seconds between two calls. ``ca``: see ``calls``."""

    def __init__(self, settings: Mapping[str, Setting], secret: str) -> None:
        found = checked(settings, {"every": WantedSetting(int, 60), "ca": WantedSetting(str, "")})
        self.every, self._ca = max(10, int(found["every"])), str(found["ca"])
        self._url = check_url(one_line(secret, "a URL"))

    def call(self) -> None:
        """Call it. Raises TryLater, Refused."""
        call("GET", self._url, None, {"User-Agent": "farshore"}, self._ca)

    def send(self, message: Message) -> str:  # noqa: ARG002 - the port's
        """Refuse, as a heartbeat channel cannot send messages."""
        raise WrongState("A heartbeat channel cannot send messages.", remedy="It is called while every RPO holds.")


def broken(machines: Iterable[WatchedMachine], policies: Sequence[PolicyRow], now: int) -> str:
    """Return why not every RPO holds; "" if all do. A machine whose first copy is in progress has no RPO yet."""
    thresholds = {policy.name: policy.rpo_threshold for policy in policies}
    watched = [one for one in machines if one.state in WATCHED]
    for one in watched:
        rpo = rpo_seconds(one.newest_point_time, now)
        if rpo is None:
            return f"{one.name} has no recovery point."
        if rpo > thresholds[one.policy]:
            return f"The newest recovery point of {one.name} is older than {thresholds[one.policy]} seconds."
    return "" if watched else "No machine is protected."
