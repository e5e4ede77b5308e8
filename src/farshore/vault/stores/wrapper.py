"""What a wrapper around a store passes on unchanged: a wrapper says only what it does differently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from farshore.formats.batch import Buffer
from farshore.vault.stores.port import Listed, Store


class StoreWrapper:
    """A Store (see vault.stores.port) that passes every call on."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        self._inner.put(name, buffers)

    def put_if_absent(self, name: str, buffers: Sequence[Buffer]) -> bool:
        return self._inner.put_if_absent(name, buffers)

    def get(self, name: str) -> Buffer:
        return self._inner.get(name)

    def get_range(self, name: str, start: int, length: int) -> Buffer:
        return self._inner.get_range(name, start, length)

    def get_ranges(self, name: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[Buffer]:
        return self._inner.get_ranges(name, starts, lengths)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        return self._inner.list(prefix, after)

    def folders(self, prefix: str) -> Sequence[str]:
        return self._inner.folders(prefix)

    def delete(self, name: str) -> None:
        self._inner.delete(name)
