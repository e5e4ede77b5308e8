"""HTTP proxies, as HTTPS_PROXY, HTTP_PROXY and NO_PROXY name them. TLS goes through them end to end (CONNECT)."""

from __future__ import annotations

import ssl
import urllib.request
from typing import Any, Optional
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.util import make_headers

from farshore.model.errors import Malformed
from farshore.model.text import bracketed


def proxy_for(url: str) -> Optional[str]:
    """Return the proxy for ``url``, or None to connect directly. Raises Malformed."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    found = urllib.request.getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if not proxy or host in ("localhost", "127.0.0.1", "::1") or urllib.request.proxy_bypass(_with_port(host, url)):
        return None
    if urlsplit(proxy).scheme not in ("http", "https") or not urlsplit(proxy).hostname:
        raise Malformed(
            f"The proxy for {host} is not an HTTP proxy.",
            remedy=f"Set {parts.scheme.upper()}_PROXY to http://HOST:PORT, or list {host} in NO_PROXY.",
        )
    return proxy


def pool_manager(url: str, context: ssl.SSLContext, proxy: Optional[str] = None, **options: Any) -> urllib3.PoolManager:
    """Return connections to ``url`` through ``proxy``, or through the proxy of the environment. ``options`` are
    urllib3's. Raises Malformed."""
    proxy = proxy or proxy_for(url)
    if proxy is None:
        return urllib3.PoolManager(ssl_context=context, **options)
    parts = urlsplit(proxy)
    address = f"{parts.scheme}://{bracketed(parts.hostname or '')}:{proxy_port(proxy)}"
    headers = None
    if parts.username is not None:
        headers = make_headers(proxy_basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")
    return urllib3.ProxyManager(address, proxy_headers=headers, ssl_context=context, **options)


def proxy_port(proxy: str) -> int:
    """Return the proxy's port: the given one, or the default of its scheme."""
    parts = urlsplit(proxy)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _with_port(host: str, url: str) -> str:
    port = urlsplit(url).port
    bare = bracketed(host)
    return f"{bare}:{port}" if port else bare
