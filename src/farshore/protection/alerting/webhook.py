"""A signed webhook: a POST of JSON, with the headers of standardwebhooks.com.

``webhook-signature`` is ``v1,`` and the base64 of HMAC-SHA256, by the signing key, over ``id.timestamp.body``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
from collections.abc import Mapping

from farshore.api_types.sites import Setting
from farshore.model.errors import Malformed
from farshore.model.identifiers import new_id
from farshore.protection.alerting.calls import call, check_url
from farshore.protection.alerting.message import Message
from farshore.protection.alerting.port import WantedSetting, checked

_PREFIX = "whsec_"
_LEAST_KEY_BYTES = 24


def new_key() -> str:
    """Return a new signing key."""
    return _PREFIX + base64.b64encode(os.urandom(32)).decode()


class Webhook:
    """``secret``: the URL, and on a second line the signing key. ``ca``: see ``calls``."""

    def __init__(self, settings: Mapping[str, Setting], secret: str) -> None:
        self._ca = str(checked(settings, {"ca": WantedSetting(str, "")})["ca"])
        lines = secret.split()
        if len(lines) != 2:
            raise Malformed("The secret must be a URL and a signing key.", remedy="Give them with --secret-file.")
        self._url = check_url(lines[0])
        try:
            self._key = base64.b64decode(lines[1].removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            self._key = b""
        if len(self._key) < _LEAST_KEY_BYTES:
            raise Malformed(
                f"The signing key is not {_PREFIX} and the base64 of {_LEAST_KEY_BYTES} bytes or more.",
                remedy="Leave it out, and the server generates one.",
            )

    def send(self, message: Message) -> str:
        """As in the port."""
        body = json.dumps(message.document()).encode()
        identifier, stamp = f"msg_{new_id()}", str(message.time // 10**9)
        signed = hmac.new(self._key, f"{identifier}.{stamp}.".encode() + body, hashlib.sha256).digest()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "farshore",
            "webhook-id": identifier,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
        }
        call("POST", self._url, body, headers, self._ca)
        return ""
