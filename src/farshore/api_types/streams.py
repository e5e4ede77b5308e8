"""JSON answers of the process server's data plane; the bodies sent to it are binary (docs/formats)."""

from __future__ import annotations

from typing import Annotated, List

from pydantic import Field

from farshore.api_types.body import Body, Moment

Number = Annotated[int, Field(ge=0, lt=1 << 63)]
"""What fits the formats and the catalog."""


class Protocol(Body):
    """``GET /v1/protocol``: the supported batch versions, newest first."""

    batch_versions: List[int]
    maximum_batch_bytes: int


class ProtocolOffer(Body):
    """``POST /v1/protocol``: the versions of the stream protocol that the machine supports."""

    versions: List[Number] = Field(max_length=100)


class ProtocolChoice(Body):
    """The version that the server chose. Without a common one it refuses, as unsupported, and says what to do."""

    version: int
    maximum_batch_bytes: int


class StreamStatus(Body):
    """``GET /v1/streams/{machine}/{epoch}``: where to continue. Sequences are the next expected ones."""

    machine: str
    epoch: int
    next_journal: int
    next_base: int
    base_complete: bool
    base_chunks: int = 0
    """Chunks of this epoch's copy that the server has received (compared or sent)."""


class Acknowledgement(Body):
    """``POST /v1/streams/{machine}/{epoch}/batches``: everything below these is durable in the spool."""

    next_journal: int
    next_base: int
    stored_journal: int = 0
    """Every journal record below this is also in the vault: it will not be requested again."""


class ChunkRange(Body):
    """``count`` chunks of 64 KiB from chunk ``first`` on."""

    disk: int
    first: int
    count: int


class MissingChunks(Body):
    """``GET /v1/streams/{machine}/{epoch}/chunks/missing``: what the epoch's copy still lacks, a limited number of
    ranges at a time; empty when the copy may be completed."""

    ranges: List[ChunkRange] = []


class ProofAnswer(Body):
    """``POST /v1/streams/{machine}/{epoch}/proofs``: the chunks whose copy in the vault differs from the disk at that
    sequence, or cannot be read; all others are equal. The body: docs/formats/proof.md."""

    differing: List[int] = []
    rest: float = 0
    """Seconds that the machine must wait before its next proof, because the cost of comparing is limited."""
    vault_bytes: int = 0
    """Bytes read from the vault for it."""
    vault_requests: int = 0
    cpu_seconds: float = 0
    """The process server's processor time for comparing."""


class DifferenceAnswer(Body):
    """``POST /v1/streams/{machine}/{epoch}/differences``: a chunk that differs, as the disk held it at a sequence.
    ``differs``: the vault's version is really different; both are then stored in the vault."""

    differs: bool
    blocks: List[int] = []
    """The 4 KiB blocks of the chunk, from 0, that differ; all of them if the vault's chunk cannot be read."""
    zero: bool = False
    """The vault has zeroes in each of them."""
    vault_bytes: int = 0
    vault_requests: int = 0
    cpu_seconds: float = 0
    """The cost, as in ProofAnswer."""


class BaseCompletion(Body):
    """``POST /v1/streams/{machine}/{epoch}/base``: the copy is complete; the state is consistent from this journal
    sequence on. Answered (with StreamStatus) once chunks, base map and epoch are durable in the vault."""

    consistent_from: Number
    time: Moment
    base_end: Number = 1
    """The sequence after the last record of the base overlay: a server with fewer records (another one, which died, had
    acknowledged them) must refuse."""
    only_points: bool = False
    """Only the POINT records that follow are consistent states, not every position (bitmap and scan mode)."""
