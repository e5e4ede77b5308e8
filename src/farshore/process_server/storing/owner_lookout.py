"""Check whether the vault still belongs to the installation of this process server.

The store itself checks before it writes (see vault.stores.owned). This check runs every few seconds as well: a server
that has nothing to store must also stop receiving batches, because it could no longer store them; and segments rely on
this check.

If its own configuration server has begun a new generation (its catalog was rebuilt), or the installation that has taken
the vault over knows this process server and answers, the process ends, and its supervisor starts it again: then it
registers as at any start. The vault says where its owner is reached, and only a configuration server of the same
authority is used.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from farshore.model.errors import Displaced, FarshoreError
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.ownership import Ownership
from farshore.vault.stores.owned import LOOK_SECONDS
from farshore.vault.stores.port import Store

_log = logging.getLogger(__name__)


class OwnerLookout:
    """``generation`` 0: the configuration server has an older release and does not report it; then nothing is checked.
    ``ask`` returns the present generation of the configuration server; ``turn_to`` switches this process server to the
    one at another URL, and returns whether it could; None: it never switches. Both raise FarshoreError."""

    def __init__(
        self,
        store: Store,
        key: SealingKey,
        generation: int,
        ask: Callable[[], int],
        turn_to: Callable[[str], bool] | None = None,
    ) -> None:
        self._generation, self._ask, self._turn_to = generation, ask, turn_to
        self.ownership = Ownership(store, key, generation, _tell) if generation else None

    def refuse_if_displaced(self) -> None:
        """Raise Displaced if the vault is known to belong to another installation. Sends no request."""
        error = None if self.ownership is None else self.ownership.displaced
        if error is not None:
            raise Displaced(error.message, remedy=error.remedy)

    def run(self, stopping: threading.Event) -> None:
        """Check until ``stopping``, which is set if this server must restart."""
        while self.ownership is not None and not stopping.wait(LOOK_SECONDS):
            if self._must_begin_anew(self.ownership):
                _log.warning("The vault has another owner, which knows this process server; restarting.")
                stopping.set()

    def _must_begin_anew(self, ownership: Ownership) -> bool:
        try:
            ownership.check()
            return False
        except Displaced:
            pass
        except FarshoreError:  # the store is unreachable: its users report that
            return False
        with contextlib.suppress(FarshoreError):
            if self._ask() > self._generation:
                return True
        if self._turn_to is not None and ownership.successor is not None:
            with contextlib.suppress(FarshoreError):
                return self._turn_to(ownership.successor.url)
        return False


def _tell(error: Displaced) -> None:
    _log.critical("%s", error)
