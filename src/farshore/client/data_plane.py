"""The agent's calls to a process server: sending records and chunks, and asking where to continue after a break.

Bodies are the buffers of farshore.formats, given to the socket without a copy. Batches and chunks are idempotent. The
caller has its own retry loop, because it must choose between waiting and writing to the .hrl file; this module only
repeats a request whose idle connection was dropped.
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
"""One retry, for a kept-alive connection that the server has closed. If the server cannot be reached, that is reported
at once."""


class DataPlane:
    """One stream, ``(machine, epoch)``, at a process server. Thread-safe; the caller puts the batches in order."""

    def __init__(self, transport: Transport, machine: str, epoch: int) -> None:
        self._transport = transport
        self._root = f"/v1/streams/{machine}/{epoch}"
        self._agreed: Optional[Tuple[str, int]] = None

    def protocol(self) -> Protocol:
        """Return the protocol versions that the server supports."""
        return self._transport.get("/v1/protocol", Protocol)

    def agree(self) -> int:
        """Return the version of the stream protocol to use with this server. It is negotiated once per server, and
        again after an error.

        Raises Unsupported if the two have no common version. Every call that carries data calls this first."""
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
        """Return where to continue: the next sequences that the server expects."""
        return self._transport.get(self._root, StreamStatus)

    def send(self, batch: Batch) -> Acknowledgement:
        """Send one batch; when this returns, its records are durable. Raises Gap, Fenced, Busy, Unreachable and
        others."""
        return self.send_encoded(encode_batch(batch))

    def send_encoded(self, buffers: Sequence[Buffer], now: int = 0) -> Acknowledgement:
        """Send a batch that is already encoded. ``now`` is this machine's monotonic clock in ns, from which the server
        computes the age of the batch; 0 if the records may be from an earlier boot, so their age is unknown."""
        self.agree()  # first, so that the time of this request does not count into ``now``
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
        """Send chunks that the server lacks (rows as in formats.chunk_exchange.Chunks, their bytes in ``parts``).

        They are durable once the base is complete; the server refuses to complete it if it lost any of them."""
        header = encode_chunks(Chunks(disk, rows, b""))[:-1]
        self._carry("/chunks", [*header, *parts], _STALE)

    def missing(self) -> MissingChunks:
        """Return what the server still lacks for the copy; one answer lists a limited number of ranges."""
        return self._transport.get(f"{self._root}/chunks/missing", MissingChunks)

    def complete_base(self, completion: BaseCompletion) -> StreamStatus:
        """Declare the copy complete. The server answers when the epoch is durable in the vault."""
        return self._transport.post(f"{self._root}/base", completion, StreamStatus, repeatable=True)

    def prove(self, proof: Proof) -> ProofAnswer:
        """Compare chunks with the vault's state at a position. Raises TryLater until that position is in the vault, and
        Unsupported if the server cannot compare."""
        return ProofAnswer.model_validate_json(self._carry_if_known("/proofs", encode_proof(proof)))

    def differ(self, found: Difference) -> DifferenceAnswer:
        """Report a chunk that differs. Raises the same errors as ``prove``."""
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
        """Send data in the negotiated version."""
        self.agree()
        try:
            return self._transport.request("POST", self._root + path, buffers, retries=retries, headers=headers)
        except TryLater:
            self._agreed = None  # the next server to answer may run another release
            raise

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()
