"""The vault engine: sealed segments, chunks, base maps and points in an object store, and reading them back."""

from __future__ import annotations

from farshore.vault.keys.owner_keys import KeyWrapper, OwnerKey
from farshore.vault.machine import MachineVault
from farshore.vault.objects.base_copy import BaseCopy
from farshore.vault.objects.epochs import EpochDisk, EpochRecord
from farshore.vault.objects.segments import SealedBatch, SegmentBuilder, SegmentObject
from farshore.vault.reading.points import AtTime, Choice, Latest, Named
from farshore.vault.reading.restore import restore_to_raw
from farshore.vault.stores.port import Store
from farshore.vault.stores.registry import open_store
from farshore.vault.vault import Vault

__all__ = [
    "AtTime",
    "BaseCopy",
    "Choice",
    "EpochDisk",
    "EpochRecord",
    "KeyWrapper",
    "Latest",
    "MachineVault",
    "Named",
    "OwnerKey",
    "SealedBatch",
    "SegmentBuilder",
    "SegmentObject",
    "Store",
    "Vault",
    "open_store",
    "restore_to_raw",
]
