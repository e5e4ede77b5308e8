"""Whether the vault is still that of the installation that this process server belongs to.

The store itself asks before it writes (see vault.stores.owned). This looks every few seconds as well: a server that has
nothing to store stops taking batches, too, for what it took could not be stored any more; and segments go by this look.

Where its own configuration server has begun a new generation (its catalog was made anew), or whoever has taken the
vault over knows this process server and answers, it ends, and is started again by whoever keeps it running: then it
registers as at any start. The vault says where its owner is reached, and only a configuration server of the same
authority is spoken to.
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
    """``generation`` 0: the configuration server is of an older release and does not say; then nobody looks. ``ask``
    answers the present generation of the configuration server; ``turn_to`` makes this process server that of the
    one at another URL, and answers whether it could; None: it stays. Both raise FarshoreError."""

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
        """Raise Displaced where the vault is known to be another installation's. Asks nobody."""
        error = None if self.ownership is None else self.ownership.displaced
        if error is not None:
            raise Displaced(error.message, remedy=error.remedy)

    def run(self, stopping: threading.Event) -> None:
        """Look until ``stopping``, which is set where this server has to begin anew."""
        while self.ownership is not None and not stopping.wait(LOOK_SECONDS):
            if self._must_begin_anew(self.ownership):
                _log.warning("The vault has another owner, who knows this process server; it begins anew.")
                stopping.set()

    def _must_begin_anew(self, ownership: Ownership) -> bool:
        try:
            ownership.check()
            return False
        except Displaced:
            pass
        except FarshoreError:  # the store is away: it is reported by those who need it
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
