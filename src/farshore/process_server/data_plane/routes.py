"""Route a request to the part that answers it.

docs/formats/stream-protocol.md describes every request. Before a body is read, the certificate must name the machine in
the path and still be valid, and the epoch must be open: a foreign or fenced sender costs nothing.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Callable, TypeVar

from pydantic import BaseModel, ValidationError

from farshore.api_types.servers import StreamGrant
from farshore.api_types.streams import (
    Acknowledgement,
    BaseCompletion,
    ChunkRange,
    MissingChunks,
    Protocol,
    ProtocolChoice,
    ProtocolOffer,
    StreamStatus,
)
from farshore.formats import batch as batches
from farshore.formats import chunk_exchange, stream_protocol
from farshore.formats.batch import Role
from farshore.formats.point_payload import check_points
from farshore.formats.proof import (
    CAUSE_BYTES,
    DIFFERENCE_HEADER,
    MOST_CHUNKS,
    PROOF_HEADER,
    PROOF_ROW,
    decode_difference,
    decode_proof,
)
from farshore.model.bandwidth import Bandwidth
from farshore.model.errors import Busy, Forbidden, Malformed, NotFound, Unauthenticated
from farshore.model.identifiers import CHUNK, Epoch, MachineId
from farshore.process_server.copying.copies import Copies
from farshore.process_server.data_plane.incoming import check_inside, read_batch
from farshore.process_server.listening.exchange import Answer, Request
from farshore.process_server.proving.proofs import Proofs
from farshore.process_server.storing.throttled_store import over_the_limit
from farshore.process_server.streams.registry import Streams
from farshore.process_server.streams.stream import Stream
from farshore.process_server.streams.time_axis import Timing

_STREAM = re.compile(
    r"/v1/streams/([0-9a-f-]{36})/([0-9]{1,10})(/batches|/proofs|/differences|/chunks|/chunks/compare|/chunks/missing|/base|)"
)
_DOCUMENT_BYTES = 64 << 10
_PROOF_BYTES = PROOF_HEADER.size + MOST_CHUNKS * PROOF_ROW.itemsize
_DIFFERENCE_BYTES = DIFFERENCE_HEADER.size + CAUSE_BYTES + CHUNK
_REQUESTS_OF_ONE = 2
_RANGES = 1000
"""Maximum missing ranges in an answer."""
Parsed = TypeVar("Parsed", bound=BaseModel)
JSON = "application/json"
BINARY = "application/octet-stream"


@dataclass(frozen=True)
class Call:
    """A request about one stream whose sender was checked."""

    request: Request
    machine: MachineId
    epoch: Epoch


class Routes:
    """A Handler. ``completed`` is called for each epoch that became visible. At most ``copying`` requests of base
    copies are in progress at once: they wait for the store, and the other workers remain for the streams. Chunks are
    not received while stored data exceeds ``bandwidth``."""

    def __init__(
        self,
        streams: Streams,
        copies: Copies,
        completed: Callable[[Stream], None],
        proofs: Proofs,
        copying: int,
        bandwidth: Bandwidth,
    ) -> None:
        self._streams = streams
        self._copies = copies
        self._proofs = proofs
        self._completed = completed
        self._bandwidth = bandwidth
        self._copying = threading.BoundedSemaphore(copying)
        self._most_of_one = max(_REQUESTS_OF_ONE, copying // 2)
        self._at_work: Counter[MachineId] = Counter()
        self._lock = threading.Lock()
        self._of_no_stream: dict[tuple[str, str], Callable[[Request], Answer]] = {
            ("GET", "/v1/protocol"): self._protocol,
            ("POST", "/v1/protocol"): self._choose,
        }
        self._calls: dict[tuple[str, str], Callable[[Call], Answer]] = {
            ("GET", ""): self._status,
            ("POST", "/batches"): self._batch,
            ("POST", "/chunks/compare"): self._for_copies(self._compare),
            ("POST", "/chunks"): self._for_copies(self._chunks),
            ("GET", "/chunks/missing"): self._for_copies(self._missing),
            ("POST", "/base"): self._for_copies(self._base),
            ("POST", "/proofs"): self._for_copies(self._prove),
            ("POST", "/differences"): self._for_copies(self._differ),
        }

    def __call__(self, request: Request) -> Answer:
        """Answer one request. Raises any FarshoreError."""
        if request.peer is None:
            raise Unauthenticated("No certificate was shown.", remedy="Enrol the machine first.")
        of_no_stream = self._of_no_stream.get((request.method, request.path))
        if of_no_stream is not None:
            return of_no_stream(request)
        found = _STREAM.fullmatch(request.path)
        call = self._calls.get((request.method, found[3])) if found else None
        if found is None or call is None:
            raise NotFound(f"Unknown request {request.method} {request.path}.", remedy="Upgrade the older side.")
        if request.peer.kind != "machine" or request.peer.name != found[1]:
            raise Forbidden(
                f"The certificate of {request.peer.kind} {request.peer.name} does not give access to "
                f"the stream of {found[1]}.",
                remedy="A machine may send only its own stream. If the machine was cloned, enrol it again.",
            )
        return call(Call(request, MachineId(found[1]), Epoch(int(found[2]))))

    def _for_copies(self, call: Callable[[Call], Answer]) -> Callable[[Call], Answer]:
        def bounded(asked: Call) -> Answer:
            with self._lock:
                mine = self._at_work[asked.machine]
                self._at_work[asked.machine] += 1
            try:
                # So that no single machine can hold all places.
                if mine >= self._most_of_one or not self._copying.acquire(blocking=False):
                    raise Busy(
                        "The limit of concurrent copy requests is reached.",
                        remedy="The agent retries automatically. If this lasts, check the speed of the store.",
                        after=1,
                    )
                try:
                    return call(asked)
                finally:
                    self._copying.release()
            finally:
                with self._lock:
                    self._at_work[asked.machine] -= 1
                    if not self._at_work[asked.machine]:
                        del self._at_work[asked.machine]

        return bounded

    def _protocol(self, _request: Request) -> Answer:
        return _json(Protocol(batch_versions=[batches.VERSION], maximum_batch_bytes=batches.MAXIMUM_BYTES))

    def _choose(self, request: Request) -> Answer:
        chosen = stream_protocol.choose(_parsed(ProtocolOffer, request.body(_DOCUMENT_BYTES)).versions)
        return _json(ProtocolChoice(version=chosen, maximum_batch_bytes=batches.MAXIMUM_BYTES))

    def _status(self, call: Call) -> Answer:
        stream, _ = self._granted(call)
        return _json(self._standing(stream))

    def _granted(self, call: Call) -> tuple[Stream, StreamGrant]:
        assert call.request.peer is not None
        return self._streams.granted(call.machine, call.epoch, call.request.peer.serial)

    def _batch(self, call: Call) -> Answer:
        stream, grant = self._granted(call)
        batch = read_batch(call.request.body(batches.MAXIMUM_BYTES), grant)
        check_points(batch.records, batch.payload)
        stream.receive(batch, Timing(call.request.arrived, call.request.sent))
        next_journal, next_base = stream.next_sequence(Role.JOURNAL), stream.next_sequence(Role.BASE)
        stored = stream.stored_sequence(Role.JOURNAL)
        return _json(Acknowledgement(next_journal=next_journal, next_base=next_base, stored_journal=stored))

    def _compare(self, call: Call) -> Answer:
        stream, grant = self._granted(call)
        comparison = chunk_exchange.decode_comparison(call.request.body(batches.MAXIMUM_BYTES))
        verdicts = self._copies.get(stream, grant).compare(comparison)
        return Answer(200, BINARY, [verdicts.tobytes()])

    def _chunks(self, call: Call) -> Answer:
        stream, grant = self._granted(call)
        behind = self._bandwidth.behind()
        if behind:
            raise over_the_limit(behind)
        chunks = chunk_exchange.decode_chunks(call.request.body(batches.MAXIMUM_BYTES))
        self._copies.get(stream, grant).put(chunks)
        return _json(self._standing(stream))

    def _missing(self, call: Call) -> Answer:
        stream, grant = self._granted(call)
        found = [] if stream.base_complete else self._copies.get(stream, grant).missing(_RANGES)
        return _json(MissingChunks(ranges=[ChunkRange(disk=disk, first=at, count=n) for disk, at, n in found]))

    def _base(self, call: Call) -> Answer:
        stream, grant = self._granted(call)
        completion = _parsed(BaseCompletion, call.request.body(_DOCUMENT_BYTES))
        shifted = min(batches.LATEST, max(0, completion.time + stream.time_axis.correction))
        completion = completion.model_copy(update={"time": shifted})
        if not stream.base_complete:
            self._copies.get(stream, grant).complete(completion)
            self._completed(stream)
        self._copies.drop(stream)
        return _json(self._standing(stream))

    def _prove(self, call: Call) -> Answer:
        stream, grant = self._granted(call)
        proof = decode_proof(call.request.body(_PROOF_BYTES))
        check_inside(grant, proof.disk, int(proof.chunks[-1]))
        return _json(self._proofs.prove(stream, proof))

    def _differ(self, call: Call) -> Answer:
        stream, grant = self._granted(call)
        found = decode_difference(call.request.body(_DIFFERENCE_BYTES))
        check_inside(grant, found.disk, found.chunk)
        return _json(self._proofs.differ(stream, found))

    def _standing(self, stream: Stream) -> StreamStatus:
        return StreamStatus(
            machine=stream.machine,
            epoch=stream.epoch,
            next_journal=stream.next_sequence(Role.JOURNAL),
            next_base=stream.next_sequence(Role.BASE),
            base_complete=stream.base_complete,
            base_chunks=self._copies.told(stream),
        )


def _json(body: BaseModel) -> Answer:
    return Answer(200, JSON, [body.model_dump_json().encode()])


def _parsed(kind: type[Parsed], data: memoryview) -> Parsed:
    try:
        return kind.model_validate_json(bytes(data))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "body"
        raise Malformed(
            f"The body does not match the protocol ({where}: {error.errors()[0]['msg']}).",
            remedy="Upgrade the older side.",
        ) from error
