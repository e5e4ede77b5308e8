"""From a URL to a store. The only place that knows every kind."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

from farshore.model.errors import Malformed
from farshore.vault.stores.folder import FolderStore
from farshore.vault.stores.port import Store
from farshore.vault.stores.remote import RemoteStore

if TYPE_CHECKING:
    from obstore.store import AzureConfig, RetryConfig

_RETRY: RetryConfig = {"max_retries": 3, "retry_timeout": datetime.timedelta(seconds=30)}
"""Short: whoever calls a store repeats TryLater by its own clock, and shows meanwhile that the store is in trouble."""


def open_store(url: str) -> Store:
    """The store at ``url``: ``file:///folder``, ``memory:///``, ``s3://bucket/prefix``, ``az://container/prefix``,
    ``gs://bucket/prefix``. Credentials come from the environment, as each provider's own tools read them, and are
    refused in the URL. Raises Malformed.
    """
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise Malformed("A vault URL holds no credentials or options.", remedy="Put them into the environment.")
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise Malformed(f"{url!r} is not a folder on this machine.", remedy="Write file:///path/to/folder.")
        return FolderStore(Path(unquote(parts.path)))
    if parts.scheme == "memory":
        return RemoteStore(MemoryStore(), url)
    prefix = parts.path.strip("/") or None
    if parts.scheme in ("s3", "s3a"):
        return RemoteStore(S3Store(parts.netloc, prefix=prefix, retry_config=_RETRY), url)
    if parts.scheme in ("az", "azure", "abfs"):
        return RemoteStore(AzureStore(parts.netloc, prefix=prefix, config=_azure_double(), retry_config=_RETRY), url)
    if parts.scheme == "gs":
        return RemoteStore(GCSStore(parts.netloc, prefix=prefix, retry_config=_RETRY), url)
    raise Malformed(f"{url!r} names no kind of store.", remedy="Use file://, s3://, az:// or gs://.")


def _azure_double() -> AzureConfig:
    return {"use_emulator": True} if os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() == "true" else {}
