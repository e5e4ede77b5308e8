"""Send the disks to a site that takes them to its own disks, once the guest was prepared on this host's copy."""

from __future__ import annotations

from farshore.delivery.port import Sending
from farshore.durable.progress import end_progress, report_progress
from farshore.model.errors import TryLater
from farshore.recovery.context import RecoveryContext
from farshore.recovery.standing import site_of
from farshore.recovery.steps.deliver import Watched, consignment_of


def send(context: RecoveryContext, failover: str, position: str) -> None:
    """Send the disks completely; do nothing if they are already in place. Raises Cancelled, what opening the point
    raises."""
    delivery = context.delivery(site_of(context, failover))
    if not isinstance(delivery, Sending):
        return
    watch = Watched(context, failover)
    try:
        delivery.send(consignment_of(context, failover, position), watch)
        end_progress()
    except TryLater as error:
        # The step is retried and continues where it was; meanwhile show what it waits for.
        report_progress(watch.said, f"waits: {error}")
        raise
