"""The vault in an object store that fails: the S3 double, reached both from where the servers are and from here.

It runs in this process, so nothing that is killed takes it along. Whoever judges reads the vault through it too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from tests.crash.fire.namespaces import inside
from tests.crash.process_server.faulty_s3 import FaultyStore


@contextlib.contextmanager
def object_store(namespace: str) -> Iterator[FaultyStore]:
    """The store, serving this network namespace and another; the environment of programs opens it meanwhile."""
    before = dict(os.environ)
    with FaultyStore() as store:
        with inside(namespace):
            store.serve_here_too()
        os.environ.update(store.environment)
        # A starved machine is no fault of the store.
        os.environ["AWS_TIMEOUT"] = "20 seconds"
        try:
            yield store
        finally:
            os.environ.clear()
            os.environ.update(before)
