"""The delivery by upload, where the libraries for it are installed."""

from __future__ import annotations

from farshore.delivery.port import Delivery
from farshore.model.errors import Unsupported
from farshore.sites.port import Ingesting


def upload_to(site: Ingesting) -> Delivery:
    """The delivery to a site's own disks. Raises Unsupported."""
    try:
        from farshore.delivery.uploaded import UploadedDelivery
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("azure"):
            raise
        raise Unsupported("Azure's libraries are not installed.", remedy="pip install 'farshore[azure]'") from error
    return UploadedDelivery(site)
