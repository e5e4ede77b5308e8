"""The clouds' doubles, each started once a run: both files that use them are one group, and each test has a prefix."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from tests.contract import doubles

Double = Callable[[str], tuple[str, dict[str, str]]]


@pytest.fixture(scope="session")
def double() -> Iterator[Double]:
    """Return a function that gives a double's URL and environment by its name; it skips what cannot be started here."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    with contextlib.ExitStack() as running:

        def start(name: str) -> tuple[str, dict[str, str]]:
            if name not in found:
                try:
                    found[name] = running.enter_context(getattr(doubles, name)())
                except FileNotFoundError as missing:
                    pytest.skip(f"{name} cannot be started here: {missing}")
            return found[name]

        yield start
