"""JSON answers of the process server's data plane; the bodies sent to it are binary (docs/formats)."""

from __future__ import annotations

from typing import Annotated, List

from pydantic import Field

from farshore.api_types.body import Body, Moment

Number = Annotated[int, Field(ge=0, lt=1 << 63)]
"""What fits the formats and the catalog."""


class Protocol(Body):
    """``GET /v1/protocol``: the batch versions understood, newest first."""

    batch_versions: List[int]
    maximum_batch_bytes: int


class ProtocolOffer(Body):
    """``POST /v1/protocol``: the versions of the stream protocol that the machine speaks."""

    versions: List[Number] = Field(max_length=100)


class ProtocolChoice(Body):
    """The one that the server chose. Where there is none in common it refuses, as unsupported, and says what to do."""

    version: int
    maximum_batch_bytes: int


class StreamStatus(Body):
    """``GET /v1/streams/{machine}/{epoch}``: where to go on. Sequences are the next expected ones."""

    machine: str
    epoch: int
    next_journal: int
    next_base: int
    base_complete: bool
    base_chunks: int = 0
    """Chunks of this epoch's copy that the server has been told of (compared or sent)."""


class Acknowledgement(Body):
    """``POST /v1/streams/{machine}/{epoch}/batches``: everything below these is durable in the spool."""

    next_journal: int
    next_base: int
    stored_journal: int = 0
    """Every journal record below this is in the vault too: nobody will ask for it again."""


class ChunkRange(Body):
    """``count`` chunks of 64 KiB from chunk ``first`` on."""

    disk: int
    first: int
    count: int


class MissingChunks(Body):
    """``GET /v1/streams/{machine}/{epoch}/chunks/missing``: what the epoch's copy still has to be told, at most so many
    ranges at a time; empty when the copy may be completed."""

    ranges: List[ChunkRange] = []


class ProofAnswer(Body):
    """``POST /v1/streams/{machine}/{epoch}/proofs``: the chunks whose copy in the vault is not what the disk held at
    that sequence, or cannot be read; all others are equal. The body: docs/formats/proof.md."""

    differing: List[int] = []
    rest: float = 0
    """Seconds that the machine is to wait before its next proof: what comparing cost here is bounded."""
    vault_bytes: int = 0
    """What was read from the vault for it."""
    vault_requests: int = 0
    cpu_seconds: float = 0
    """Processor time that comparing took the process server."""


class DifferenceAnswer(Body):
    """``POST /v1/streams/{machine}/{epoch}/differences``: a chunk that differs, as the disk held it at a sequence.
    ``differs``: the vault's is another indeed; both are kept in the vault then."""

    differs: bool
    blocks: List[int] = []
    """The 4 KiB blocks of the chunk, from 0, that are different; all of them where the vault's cannot be read."""
    zero: bool = False
    """The vault has zeroes in each of them."""
    vault_bytes: int = 0
    vault_requests: int = 0
    cpu_seconds: float = 0
    """What it cost, as in ProofAnswer."""


class BaseCompletion(Body):
    """``POST /v1/streams/{machine}/{epoch}/base``: the copy is complete; the state is consistent from this journal
    sequence on. Answered (with StreamStatus) once chunks, base map and epoch are durable in the vault."""

    consistent_from: Number
    time: Moment
    base_end: Number = 1
    """The sequence after the last record of the base overlay: a server that has fewer (another one, which died, had
    acknowledged them) must refuse."""
    only_points: bool = False
    """Only the POINT records that follow are consistent states, not every position (bitmap and scan mode)."""
