"""What the vault asks of an object store.

Objects are immutable to the vault except for a few small ones (descriptor, wrapped keys, leases). Names are
``/``-separated, of ``[0-9A-Za-z._-]``. Every call may raise Unreachable (passing) or Forbidden (credentials).
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Protocol, Sequence, runtime_checkable

from farshore.formats.batch import Buffer


class Listed(NamedTuple):
    """One object in a listing; ``modified`` is ns since 1970 UTC by the store's clock."""

    name: str
    size: int
    modified: int


class Store(Protocol):
    """An object store. Safe to call from several threads; all calls are idempotent and may be repeated.

    A put is atomic and durable when it returns: readers see the whole object or none, and a power cut does not
    take it back. A listing shows every object whose put returned before the listing began.
    """

    @property
    def url(self) -> str:
        """Where the store is, without credentials."""
        ...

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        """Store the concatenation of ``buffers``, replacing what has the name. Raises NoSpace."""
        ...

    def put_if_absent(self, name: str, buffers: Sequence[Buffer]) -> bool:
        """As put, but False, changing nothing, where the name exists with other bytes: of two callers at once with
        bytes of their own one gets True, and it is told so even where an answer was lost on the way."""
        ...

    def get(self, name: str) -> Buffer:
        """Return the whole object. Raises NotFound."""
        ...

    def get_range(self, name: str, start: int, length: int) -> Buffer:
        """Return exactly ``length`` bytes from ``start``. Raises NotFound, or Damaged if the object is shorter."""
        ...

    def get_ranges(self, name: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[Buffer]:
        """Return several ranges of one object, close ones fetched together. Raises as get_range."""
        ...

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        """Return objects below ``prefix`` (whole path elements, ending in /) with names greater than ``after``,
        sorted."""
        ...

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the path elements that directly follow ``prefix`` and have objects below them, sorted."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...


@runtime_checkable
class Sweepable(Protocol):
    """What a store may be able to as well: to remove what puts left behind whose process died."""

    def sweep(self, older_than: float) -> int:
        """Remove remains older than that many seconds, which must be longer than any put takes; return how many."""
        ...
