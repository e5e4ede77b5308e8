"""HTTPS calls of channels: limited in time, without redirects, through the proxy that the environment names.

The URL is a secret, because services put a token into it. So an error shows only its host.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from urllib3 import Retry, Timeout
from urllib3.exceptions import HTTPError, SSLError

from farshore.client.proxies import pool_manager
from farshore.model.errors import FarshoreError, Malformed, Refused, Unreachable

_SECONDS = 10.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MOST_ANSWER = 64 << 10


def check_url(url: str) -> str:
    """Return the URL. Raises Malformed unless it is https, or http at this host."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or not url.isascii() or not url.isprintable():
        raise Malformed("The secret is not a URL.", remedy="Write it as https://HOST/PATH.")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise Malformed(
            f"The URL at {host} does not use https.", remedy="Use https. http is allowed for this host only."
        )
    return url


def host_of(url: str) -> str:
    """Return the part of a URL that may be shown."""
    return urlsplit(url).hostname or ""


def call(method: str, url: str, body: bytes | None, headers: Mapping[str, str], ca: str = "") -> None:
    """Call the URL and expect a 2xx answer. Raises Unreachable, Refused. ``ca``: a PEM file, for a server without a
    public certificate."""
    at = f"The server at {host_of(url)}"
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise Refused(
            f"{ca} cannot be read ({error.strerror}).", remedy="Give the PEM file of an authority."
        ) from error
    try:
        with pool_manager(url, context, timeout=Timeout(_SECONDS), retries=Retry(total=0, redirect=False)) as pool:
            answer = pool.request(
                method, url, body=body, headers=dict(headers), redirect=False, preload_content=False, retries=False
            )
            answer.read(_MOST_ANSWER)
            answer.release_conn()
    except SSLError as error:
        raise Refused(
            f"{at} shows a certificate that is not trusted.", remedy="Give the file of its authority: --setting ca=PATH"
        ) from error
    except FarshoreError:
        raise
    except (HTTPError, OSError) as error:
        raise Unreachable(
            f"{at} does not answer ({type(error).__name__}).", remedy="Check the URL, the firewall and HTTPS_PROXY."
        ) from None  # the error's text holds the URL
    if 200 <= answer.status < 300:
        return
    kind = Unreachable if answer.status >= 500 or answer.status in (408, 425, 429) else Refused
    raise kind(f"{at} answered {answer.status}.", remedy="Check the URL, and the service's log.")
