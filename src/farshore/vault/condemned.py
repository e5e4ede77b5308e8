"""The list of the condemned: objects that a collector found dead, and when. See collection."""

from __future__ import annotations

from collections.abc import Mapping

from farshore.formats import vault_names
from farshore.model.errors import Damaged, NotFound
from farshore.vault.objects import read_document, seal_document
from farshore.vault.sealing import SealingKey
from farshore.vault.stores.port import Store


def read_condemned(store: Store, key: SealingKey) -> dict[str, int]:
    """Names and times, ns since 1970 UTC; empty where no collector ever ran. Raises Damaged."""
    try:
        fields = read_document(store, key, vault_names.CONDEMNED)
    except NotFound:
        return {}
    try:
        return {str(name): int(since) for name, since in fields["objects"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise Damaged("The list of the condemned is damaged.", remedy="Delete collection/condemned.") from cause


def write_condemned(store: Store, key: SealingKey, objects: Mapping[str, int]) -> None:
    """Replace the list."""
    document = seal_document(key, vault_names.CONDEMNED, {"format": 1, "objects": dict(objects)})
    store.put(document.name, document.buffers)
