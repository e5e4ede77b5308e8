"""Which chunks a domain holds and where: sorted runs on local disk, with little in memory. Rebuilt from the vault."""

from farshore.vault.chunk_index.index import ChunkIndex

__all__ = ["ChunkIndex"]
