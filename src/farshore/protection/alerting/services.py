"""Services of the library apprise: chats, pagers, text messages. An extra: farshore[alerts]."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from typing import Any

from farshore.api_types.events import Severity
from farshore.api_types.sites import Setting
from farshore.model.errors import Malformed, Unreachable, Unsupported
from farshore.protection.alerting.message import Message
from farshore.protection.alerting.port import checked

_TYPES = {Severity.INFORMATION: "info", Severity.WARNING: "warning", Severity.ERROR: "failure"}
_LOCAL = ("file", "syslog", "dbus", "gnome", "glib", "kde", "macosx", "windows", "xml", "json", "form")
"""Schemas that act on this host, or that a webhook does better."""


class Services:
    """``secret``: one of apprise's URLs on each line."""

    def __init__(self, settings: Mapping[str, Setting], secret: str) -> None:
        checked(settings, {})
        library = _library()
        self._notifier: Any = library.Apprise()
        urls = secret.split()
        if not urls:
            raise Malformed("The secret has no URL.", remedy="Give URLs of apprise, one a line, with --secret-file.")
        for number, url in enumerate(urls, 1):
            schema = url.partition(":")[0].lower()
            if schema in _LOCAL or not self._notifier.add(url):
                raise Malformed(
                    f"URL {number} ({schema if schema.isalnum() else '?'}) is not supported here.",
                    remedy="See the list of services in apprise's documentation.",
                )

    def send(self, message: Message) -> str:
        """As in the port. With several services, one acceptance is enough."""
        what = {"body": message.text(), "title": message.title(), "notify_type": _TYPES[message.severity]}
        failed = [str(one.service_name) for one in self._notifier if not one.notify(**what)]
        if len(failed) == len(self._notifier):
            raise Unreachable(
                f"{', '.join(failed)} did not accept the message.", remedy="Check the URL and the service."
            )
        return f"{', '.join(failed)} did not accept the message." if failed else ""


def _library() -> Any:
    """Return the library. Raises Unsupported if it is not installed."""
    try:
        library = importlib.import_module("apprise")
    except ImportError as error:
        raise Unsupported("The library apprise is not installed.", remedy="pip install 'farshore[alerts]'") from error
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # it logs URLs, which hold tokens
    return library
