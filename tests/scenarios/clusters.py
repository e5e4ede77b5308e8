"""A real PostgreSQL of a test's own."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.fire import postgres


@contextlib.contextmanager
def cluster(connections: int = 8) -> Iterator[str]:
    """The URL of a new one's database. Skips the test where PostgreSQL is not installed."""
    try:
        postgres.programs()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="fs-pg-") as name:
        folder = Path(name)
        shutil.chown(folder, postgres.USER, postgres.USER)
        postgres.make(folder)
        with postgres.running(folder, connections) as socket:
            yield f"postgresql+psycopg://{postgres.USER}@/postgres?host={socket}"
