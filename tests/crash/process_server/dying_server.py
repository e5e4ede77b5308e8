"""The process server, killed without warning between its n-th durable effect and the next one.

Effects, counted as they begin, are the spool's writes, syncs, renames and removals, and the puts into the vault;
FARSHORE_TEST_DIE_AT is n, and 0 dies before the first. With FARSHORE_TEST_DIE_LATE it dies at the end of that gap,
where the next effect would begin: whatever is not durable, such as an answer to the agent, has happened meanwhile. Else
it dies at its beginning, where none has. It says on its standard error which effect that was.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Callable, NoReturn

from farshore.process_server import main
from farshore.process_server.spool.disk import SpoolDisk
from farshore.vault.stores.registry import open_store

_EFFECTS = ("create", "write", "sync", "sync_directory", "rename", "remove", "put", "put_if_absent")
_lock = threading.Lock()
_die_at = int(os.environ["FARSHORE_TEST_DIE_AT"])
_late = bool(os.environ.get("FARSHORE_TEST_DIE_LATE"))
_count = 0


def dying(target: Any) -> Any:
    """``target`` with its durable effects counted."""

    class Dying:
        def __getattr__(self, name: str) -> Any:
            found = getattr(target, name)
            return _counted(found, name) if name in _EFFECTS else found

    return Dying()


def _counted(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        global _count
        with _lock:
            _count += 1
            now = _count
        if now == _die_at + 1 and (_late or not _die_at):
            _die(f"before effect {now}, {name}")
        answer = call(*arguments)
        if now == _die_at and not _late:
            _die(f"after effect {now}, {name}")
        return answer

    return counted


def _die(where: str) -> NoReturn:
    os.write(2, f"Dies {where}.\n".encode())
    os._exit(9)


if __name__ == "__main__":
    main.SpoolDisk = lambda directory: dying(SpoolDisk(directory))  # type: ignore[assignment,misc]
    main.open_store = lambda url: dying(open_store(url))  # type: ignore[assignment]
    sys.exit(main.main())
