"""Deliver by upload, if the libraries for it are installed."""

from __future__ import annotations

from collections.abc import Callable

from farshore.delivery.port import Delivery
from farshore.delivery.served import ServedDelivery
from farshore.model.errors import Unsupported
from farshore.sites.port import Ingesting


def upload_by(staging: ServedDelivery) -> Callable[[Ingesting], Delivery]:
    """Return the function that makes the delivery to a site's own disks. Disks are prepared as ``staging`` serves them.
    The function raises Unsupported."""

    def upload_to(site: Ingesting) -> Delivery:
        try:
            from farshore.delivery.uploaded import UploadedDelivery
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("azure"):
                raise
            raise Unsupported("Azure's libraries are not installed.", remedy="pip install 'farshore[azure]'") from error
        return UploadedDelivery(site, staging)

    return upload_to
