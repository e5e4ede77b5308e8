"""Decode an incoming batch, and check it against the stream and the disks that the configuration server granted.

Everything is checked before anything is acknowledged, because an agent deletes what was acknowledged.
"""

from __future__ import annotations

from farshore.api_types.machines import Description
from farshore.api_types.servers import StreamGrant
from farshore.formats import batch as batches
from farshore.formats.batch import Batch, Buffer
from farshore.formats.record import DiskRoom, check_places
from farshore.model.errors import Malformed
from farshore.model.identifiers import CHUNK, SECTOR, DiskNumber


def read_batch(data: Buffer, grant: StreamGrant) -> Batch:
    """Return the batch in ``data``. Raises Malformed, Damaged and Unsupported."""
    batch = batches.decode(data)
    if (batch.machine, batch.epoch) != (grant.machine, grant.epoch):
        raise Malformed("The batch belongs to another stream.", remedy="Send it to the address of its stream.")
    if not len(batch.records):
        raise Malformed("The batch holds no records.", remedy="Send a MARK record if nothing was written.")
    check_places(batch.records, _rooms(grant.description))
    return batch


def check_inside(grant: StreamGrant, disk: DiskNumber, chunk: int) -> None:
    """Raise Malformed if the granted disks have no such chunk."""
    size = {one.number: one.size for one in grant.description.disks if not one.excluded}.get(disk, 0)
    if chunk * CHUNK >= size:
        raise Malformed("A chunk lies beyond its disk.", remedy="Open a new epoch: the disk has changed.")


def _rooms(description: Description) -> dict[int, DiskRoom]:
    return {
        disk.number: DiskRoom(disk.size // SECTOR, max(1, disk.logical_block_size // SECTOR))
        for disk in description.disks
        if not disk.excluded
    }
