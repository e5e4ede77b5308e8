"""A place of the Azure site: the double of Resource Manager in a thread, Azurite beside it."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.azure.resources import Resource
from tests.azure.running import Served, azure
from tests.contract.guests import POLITE, image

from farshore.formats.vhd import footer, rounded
from farshore.model.machine import Firmware
from farshore.sites.azure.clients import clients
from farshore.sites.azure.names import card_name, group_name, machine_name
from farshore.sites.azure.settings import AzureSettings
from farshore.sites.azure.site import AzureSite
from farshore.sites.port import FailoverId, NewDisk, RecoveryOrder, UploadedDisk

MIB = 1 << 20


def open_azure(folder: Path, where: Path) -> AzureSite:
    """A site as another server would open it, by the settings in a file."""
    known = json.loads(where.read_text())
    settings = AzureSettings.model_validate(known["settings"])
    return AzureSite(folder, settings, secret=known["secret"].encode())


class AzurePlace:
    """What Azure has of a machine is read from the double, whatever the site says."""

    parts: Sequence[str] = ("order.json", "folder", "machine", "card", "group")
    forwards, ingests = False, False

    def __init__(self, folder: Path, served: Served, disks: Path) -> None:
        self.folder, self.served, self._disks = folder, served, disks
        where = disks / "site.json"
        where.write_text(json.dumps({"settings": dict(served.settings), "secret": served.secret.decode()}))
        self.kind = f"azure uploaded {where}"
        self.site = open_azure(folder, where)
        self.others: list[AzureSite] = []

    def order(self, **changes: Any) -> RecoveryOrder:
        from tests.contract.places import an_order  # it opens places of this kind, too

        made = an_order(self.upload, **changes)
        return made if made.disks or "disks" in changes else replace(made, disks=())

    def upload(self, failover: FailoverId) -> UploadedDisk:
        """Bring a small disk there, as a delivery does."""
        path = image(self._disks / str(uuid.uuid4()), POLITE)
        data = path.read_bytes()
        size = max(rounded(len(data)), 20 * MIB)
        got = self.site.receive(NewDisk(failover, "db1", 0, size, True, Firmware.BIOS))
        name = got.identity
        self.site.grant(failover, 0)
        blob = self.served.double.known.blobs.direct(str(name))
        blob.upload_page(data[:512], 0, 512)
        blob.upload_page(footer(size, got.identity), size, 512)
        self.site.accept(failover, 0)
        return self.site.uploaded(failover, 0)

    def keep(self, site: AzureSite) -> AzureSite:
        """Close the connections of another site at the end."""
        self.others.append(site)
        return site

    def lose(self, medium: UploadedDisk) -> None:
        """Delete a disk by hand."""
        del self.served.double.known.held[medium.id.lower()]

    def machine(self, failover: FailoverId) -> Resource | None:
        """As the double has it."""
        return self._held(machine_name(failover))

    def living(self, failover: FailoverId) -> int:
        found = self.machine(failover)
        return int(found is not None and found["power"] == "running")

    def kill(self, failover: FailoverId) -> None:
        """As Azure does: a machine that it takes away is deallocated; one that its guest had ended stays ended."""
        found = self.machine(failover)
        if found is not None and found["power"] == "running":
            found["power"] = "deallocated"

    def shut_down(self, failover: FailoverId) -> None:
        found = self.machine(failover)
        assert found is not None
        found["power"] = "stopped"

    def wait_for_guest(self, failover: FailoverId) -> None:
        """There is none."""

    def delete(self, failover: FailoverId, part: str) -> None:
        if part == "folder":
            for path in (self.folder / failover).iterdir():
                path.unlink()
            (self.folder / failover).rmdir()
        elif part == "order.json":
            (self.folder / failover / part).unlink()
        else:
            names = {
                "machine": machine_name(failover),
                "card": card_name(failover, 0),
                "group": group_name(failover, closed=True),
            }
            # Azure deletes no card under a machine, and no group under a card.
            if part != "machine":
                self._delete(names["machine"])
            if part == "group":
                self._delete(names["card"])
            self._delete(names[part])

    def left(self, failover: FailoverId) -> list[str]:
        """What the double still has of it, disks apart."""
        every = self.served.double.known.held
        return [path for path in every if failover in path and "/disks/" not in path]

    def _held(self, name: str) -> Resource | None:
        every = self.served.double.known.held.items()
        return next((one for path, one in every if path.endswith(f"/{name}".lower())), None)

    def _delete(self, name: str) -> None:
        from tests.azure import resources as rules

        known = self.served.double.known
        path = next(path for path in known.held if path.endswith(f"/{name}".lower()))
        rules.delete(known, path.split("/")[-2], path)()


@contextlib.contextmanager
def azure_place(folder: Path, disks: Path, environment: Mapping[str, str]) -> Iterator[AzurePlace]:
    """A place below ``folder``; ``environment`` opens an Azurite."""
    with azure(disks, environment) as served:
        place = AzurePlace(folder, served, disks)
        try:
            yield place
        finally:
            for one in place.others:
                one._clients.close()
            clients(AzureSettings.model_validate(served.settings), served.secret).close()
            clients.cache_clear()
