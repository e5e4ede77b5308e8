"""Of what performance a storage account is: its owner asked for premium or standard when it was made.

The account says so to whoever may read one blob: by an address of that blob which is signed for a minute. Where nothing
can be signed (a SAS is all there is), or the account does not answer, it is not known.
"""

from __future__ import annotations

import datetime
import functools
import logging

import urllib3

from farshore.formats import vault_names
from farshore.model.errors import FarshoreError
from farshore.vault.stores.registry import open_store
from farshore.vault.stores.remote import RemoteStore

_SIGNED = datetime.timedelta(minutes=1)
_SECONDS = 5.0
_SKU = "x-ms-sku-name"
log = logging.getLogger(__name__)


def is_premium(url: str) -> bool | None:
    """Whether the vault at ``url`` is in premium storage of Azure; None: in none of Azure's, or it is not known."""
    if not url.startswith(("az://", "azure://", "abfs://")):
        return None
    try:
        return _known(url).startswith("Premium")
    except (FarshoreError, OSError, urllib3.exceptions.HTTPError, ValueError) as error:
        log.info("Of what performance the storage account is, is not known: %s", type(error).__name__)
        return None


@functools.lru_cache(maxsize=4)
def _known(url: str) -> str:
    """The account's SKU: it stays what it was made as, so it is asked for once. Raises ValueError, what opening the
    store raises."""
    store = open_store(url)
    assert isinstance(store, RemoteStore)
    address = store.signed(vault_names.DESCRIPTOR, _SIGNED)
    answer = urllib3.request(
        "GET", f"{address}&restype=account&comp=properties", timeout=_SECONDS, retries=1, redirect=False
    )
    sku = answer.headers.get(_SKU, "")
    if not sku:
        raise ValueError("the account does not say")
    return sku
