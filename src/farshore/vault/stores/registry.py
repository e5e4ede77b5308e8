"""From a URL to a store. The only place that knows every kind."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

from farshore.model.errors import Malformed
from farshore.vault.stores.azure_certificate import by_certificate
from farshore.vault.stores.folder import FolderStore
from farshore.vault.stores.port import Store
from farshore.vault.stores.remote import RemoteStore

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig, RetryConfig

_RETRY: RetryConfig = {"max_retries": 3, "retry_timeout": datetime.timedelta(seconds=30)}
"""Short: whoever calls a store repeats TryLater by its own clock, and shows meanwhile that the store is in trouble."""

_PATIENCE = {"timeout": "300 seconds", "connect_timeout": "10 seconds"}
_CLIENT_KEYS = ("allow_http", "timeout", "connect_timeout", "proxy_url", "proxy_ca_certificate", "proxy_excludes")
"""AWS_TIMEOUT and so on, as obstore's own reading of the environment has them."""


def open_store(url: str) -> Store:
    """Return the store at ``url``: ``file:///folder``, ``memory:///``, ``s3://bucket/prefix``,
    ``az://container/prefix``, ``gs://bucket/prefix``. Credentials come from the environment, as each provider's own
    tools read them, and are refused in the URL. Raises Malformed.
    """
    parts = urlsplit(url)
    if "#" in url or parts.path != "".join(one for one in parts.path if one.isprintable()) or "\\" in url:
        raise Malformed(
            f"{url!r} has a character that has a special meaning in URLs.",
            remedy="In file:// URLs write # as %23 and ? as %3F. In a bucket choose another prefix.",
        )
    if parts.username or parts.password or parts.query:
        raise Malformed("A vault URL must not hold credentials or options.", remedy="Set them in the environment.")
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise Malformed(f"{url!r} is not a folder on this machine.", remedy="Write file:///path/to/folder.")
        return FolderStore(Path(unquote(parts.path)))
    if parts.scheme == "memory":
        return RemoteStore(MemoryStore(), url)
    prefix = parts.path.removeprefix("/").removesuffix("/") or None
    if prefix is not None and {"", ".", ".."} & set(prefix.split("/")):
        raise Malformed(
            f"{url!r} has a path element that is empty or a dot.",
            remedy="Remove that element: object stores do not support it.",
        )
    if parts.scheme in ("s3", "s3a"):
        return RemoteStore(
            S3Store(parts.netloc, prefix=prefix, client_options=_client("AWS"), retry_config=_RETRY), url
        )
    if parts.scheme in ("az", "azure", "abfs"):
        azure = AzureStore(
            parts.netloc,
            prefix=prefix,
            config=_azure_double(),
            client_options=_client("AZURE"),
            retry_config=_RETRY,
            credential_provider=by_certificate(),
        )
        return RemoteStore(azure, url)
    if parts.scheme == "gs":
        return RemoteStore(
            GCSStore(parts.netloc, prefix=prefix, client_options=_client("GOOGLE"), retry_config=_RETRY), url
        )
    raise Malformed(f"{url!r} does not name a kind of store.", remedy="Use file://, s3://, az:// or gs://.")


def _client(provider: str) -> ClientConfig:
    """How connections are made. obstore would read all of this by itself, and give a whole request 30 seconds: an
    object of tens of MiB must get through a slow line."""
    given = {key: os.environ.get(f"{provider}_{key.upper()}", "") for key in _CLIENT_KEYS}
    wanted: dict[str, object] = {**_PATIENCE, **{key: value for key, value in given.items() if value}}
    if "allow_http" in wanted:
        wanted["allow_http"] = str(wanted["allow_http"]).lower() == "true"
    return cast("ClientConfig", wanted)


def _azure_double() -> AzureConfig:
    return {"use_emulator": True} if os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() == "true" else {}
