"""The agent's side of a process server's data plane: records, chunks and where to go on after a break.

Bodies are the buffers of farshore.formats, handed to the socket as they are. Batches and chunks are idempotent; the
caller has its own retry loop (it must choose between waiting and spilling), so nothing is repeated here but what a
dropped idle connection costs.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt
from urllib3.util import Retry

from farshore.api_types.streams import (
    Acknowledgement,
    BaseCompletion,
    DifferenceAnswer,
    MissingChunks,
    ProofAnswer,
    Protocol,
    ProtocolChoice,
    ProtocolOffer,
    StreamStatus,
)
from farshore.client.transport import AGAIN, Buffer, Transport
from farshore.formats.batch import Batch
from farshore.formats.batch import encode as encode_batch
from farshore.formats.chunk_exchange import Chunks, Comparison, encode_chunks, encode_comparison
from farshore.formats.proof import Difference, Proof, encode_difference, encode_proof
from farshore.formats.stream_protocol import MONOTONIC, SUPPORTED
from farshore.model.errors import NotFound, TryLater, Unsupported
from farshore.model.identifiers import DiskNumber

_STALE = Retry(total=None, connect=0, read=1, other=1, status=0, redirect=False, allowed_methods=None)
"""One more try where a kept-alive connection was closed under us; a server that is not there is told at once."""


class DataPlane:
    """One stream, ``(machine, epoch)``, at a process server. For several threads; the caller orders the batches."""

    def __init__(self, transport: Transport, machine: str, epoch: int) -> None:
        self._transport = transport
        self._root = f"/v1/streams/{machine}/{epoch}"
        self._agreed: Optional[Tuple[str, int]] = None

    def protocol(self) -> Protocol:
        """Return the versions that the server understands."""
        return self._transport.get("/v1/protocol", Protocol)

    def agree(self) -> int:
        """Return the stream protocol's version to speak with this server, asked once for each server and again after
        trouble.

        Raises Unsupported where the two have none in common. Every call that carries data asks first.
        """
        url = self._transport.url
        if self._agreed is None or self._agreed[0] != url:
            offer = ProtocolOffer(versions=list(SUPPORTED))
            version = self._transport.post("/v1/protocol", offer, ProtocolChoice, repeatable=True).version
            if version not in SUPPORTED:
                raise Unsupported(
                    f"The process server chose stream protocol {version}, which was not offered.",
                    remedy="Upgrade the process server.",
                )
            self._agreed = url, version
        return self._agreed[1]

    def status(self) -> StreamStatus:
        """Return where to go on: the next sequences that the server expects."""
        return self._transport.get(self._root, StreamStatus)

    def send(self, batch: Batch) -> Acknowledgement:
        """Send one batch; when this returns, its records are durable. Raises Gap, Fenced, Busy, Unreachable …"""
        return self.send_encoded(encode_batch(batch))

    def send_encoded(self, buffers: Sequence[Buffer], now: int = 0) -> Acknowledgement:
        """Send a batch that is encoded already. ``now`` is this machine's monotonic clock, ns: by it the server finds
        out how old the batch is. 0 if its records may be of another boot; their age is unknown then."""
        self.agree()  # first, so that ``now`` does not age by a request of its own
        data = self._carry("/batches", buffers, _STALE, {MONOTONIC: str(now)} if now else {})
        return Acknowledgement.model_validate_json(data)

    def compare(self, comparison: Comparison) -> npt.NDArray[np.uint8]:
        """Return one formats.chunk_exchange.Verdict for each hash."""
        answer = self._carry("/chunks/compare", encode_comparison(comparison), AGAIN)
        verdicts = np.frombuffer(answer, np.uint8)
        if len(verdicts) != len(comparison.hashes):
            raise Unsupported(
                f"The process server answered for {len(verdicts)} of {len(comparison.hashes)} chunks.",
                remedy="Upgrade the older side.",
            )
        return verdicts

    def send_chunks(self, disk: DiskNumber, rows: npt.NDArray[Any], parts: Sequence[Buffer]) -> None:
        """Send chunks that the other side lacks (rows as in formats.chunk_exchange.Chunks, their bytes in ``parts``).

        Durable once the base is complete; completion is refused where the server lost any of it.
        """
        header = encode_chunks(Chunks(disk, rows, b""))[:-1]
        self._carry("/chunks", [*header, *parts], _STALE)

    def missing(self) -> MissingChunks:
        """Return what the copy still has to be told; the server lists so many ranges at a time."""
        return self._transport.get(f"{self._root}/chunks/missing", MissingChunks)

    def complete_base(self, completion: BaseCompletion) -> StreamStatus:
        """Declare the copy complete; answered once the epoch is durable in the vault."""
        return self._transport.post(f"{self._root}/base", completion, StreamStatus, repeatable=True)

    def prove(self, proof: Proof) -> ProofAnswer:
        """Compare chunks with the vault's, as of a position. Raises TryLater until that position is in the vault, and
        Unsupported if the server cannot compare."""
        return ProofAnswer.model_validate_json(self._carry_if_known("/proofs", encode_proof(proof)))

    def differ(self, found: Difference) -> DifferenceAnswer:
        """Tell of a chunk that differs. Raises as ``prove``."""
        return DifferenceAnswer.model_validate_json(self._carry_if_known("/differences", encode_difference(found)))

    def _carry_if_known(self, path: str, buffers: Sequence[Buffer]) -> bytes:
        try:
            return self._carry(path, buffers, AGAIN)
        except NotFound as error:
            raise Unsupported(
                "This process server cannot take part in proofs.", remedy="Upgrade the process server."
            ) from error

    def _carry(
        self, path: str, buffers: Sequence[Buffer], retries: Retry, headers: Optional[Mapping[str, str]] = None
    ) -> bytes:
        """Send data, in the version agreed on."""
        self.agree()
        try:
            return self._transport.request("POST", self._root + path, buffers, retries=retries, headers=headers)
        except TryLater:
            self._agreed = None  # whoever answers next may be another release
            raise

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()
