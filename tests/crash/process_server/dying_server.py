"""The process server, killed without warning after its n-th durable effect: FARSHORE_TEST_DIE_AT counts them.

Effects are the spool's writes, syncs, renames and removals, and the puts into the vault. Half of the time the effect
has happened when the process dies, half of the time not (even and odd n).
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Callable

from farshore.process_server import main
from farshore.process_server.spool.disk import SpoolDisk
from farshore.vault.stores.registry import open_store

_EFFECTS = ("create", "write", "sync", "sync_directory", "rename", "remove", "put", "put_if_absent")
_lock = threading.Lock()
_die_at = int(os.environ["FARSHORE_TEST_DIE_AT"])
_count = 0


def dying(target: Any) -> Any:
    """``target`` with its durable effects counted."""

    class Dying:
        def __getattr__(self, name: str) -> Any:
            found = getattr(target, name)
            return _counted(found) if name in _EFFECTS else found

    return Dying()


def _counted(call: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        global _count
        with _lock:
            _count += 1
            now = _count
        if now == 2 * (_die_at // 2) + 1 and _die_at % 2:
            os._exit(9)
        answer = call(*arguments)
        if now == _die_at and not _die_at % 2:
            os._exit(9)
        return answer

    return counted


if __name__ == "__main__":
    main.SpoolDisk = lambda directory: dying(SpoolDisk(directory))  # type: ignore[assignment,misc]
    main.open_store = lambda url: dying(open_store(url))  # type: ignore[assignment]
    sys.exit(main.main())
