"""Disks that were uploaded to a site which was declared lost: they are given up, and removed once the site is back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from farshore.delivery.port import Consignment, Watch
from farshore.model.identifiers import DiskNumber
from farshore.sites.lost import LostSite
from farshore.sites.port import Medium, ServedDisk, WrittenDisk


class LostDelivery:
    """farshore.delivery.port.Delivery that brings nothing, and has nothing to take back."""

    def __init__(self, site: LostSite) -> None:
        self._site = site

    def deliver(self, consignment: Consignment, watch: Watch) -> None:
        """Raise Refused."""
        raise self._site.refusal()

    def media(self, consignment: Consignment) -> Mapping[DiskNumber, Medium]:
        """Raise Refused."""
        raise self._site.refusal()

    def at_hand(self, consignment: Consignment) -> Mapping[DiskNumber, ServedDisk | WrittenDisk]:
        """Raise Refused."""
        raise self._site.refusal()

    def renew(self, consignment: Consignment) -> bool:
        """Raise Refused."""
        raise self._site.refusal()

    def stands(self, folder: Path) -> bool:
        """Return False."""
        return False

    def restore(self, consignment: Consignment) -> None:
        """Raise Refused."""
        raise self._site.refusal()

    def settle(self, folder: Path) -> None:
        """Do nothing."""

    def rest(self, folder: Path) -> None:
        """Do nothing."""

    def withdraw(self, folder: Path) -> None:
        """Do nothing: the site notes what was left."""
