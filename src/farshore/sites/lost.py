"""A recovery site that an operator declared lost: by their word nothing runs there, and nobody is asked.

What would be stopped counts as stopped. What would be removed counts as removed and is noted, so that it is removed in
truth once the site is back.
"""

from __future__ import annotations

from collections.abc import Callable

from farshore.model.errors import Refused
from farshore.sites.port import (
    Condition,
    DeliveryWish,
    FailoverId,
    RecoveredMachine,
    RecoveryOrder,
    RecoverySite,
)


class LostSite:
    """farshore.sites.port.RecoverySite. ``note`` keeps the id of a machine that may still be there."""

    def __init__(
        self, name: str, delivery: DeliveryWish, note: Callable[[FailoverId], None], itself: Callable[[], RecoverySite]
    ) -> None:
        self.name = name
        self.delivery = delivery
        self.itself = itself
        """Opens the site as it is. Raises as that does."""
        self._note = note

    def check(self, order: RecoveryOrder) -> None:
        """Raise Refused: nothing comes up here."""
        raise self.refusal()

    def create(self, order: RecoveryOrder) -> None:
        """Raise Refused."""
        raise self.refusal()

    def start(self, failover: FailoverId) -> RecoveredMachine:
        """Raise Refused."""
        raise self.refusal()

    def status(self, failover: FailoverId) -> RecoveredMachine:
        """Return that it is absent."""
        return RecoveredMachine(failover, Condition.ABSENT, detail=f"{self.name} was declared lost")

    def stop(self, failover: FailoverId, *, grace: float) -> None:
        """Do nothing, because it does not run."""

    def destroy(self, failover: FailoverId) -> None:
        """Record that it must be removed when the site is back."""
        self._note(failover)

    def present(self) -> tuple[FailoverId, ...]:
        """Return none."""
        return ()

    def refusal(self) -> Refused:
        """Return the error for a request to run a machine here."""
        return Refused(
            f"The recovery site {self.name} was declared lost.",
            remedy=f"Use another site. When it is back: farshore site found {self.name}",
        )
