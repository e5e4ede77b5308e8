"""A home of the drill whose site is a resource group of Azure, by the double of Resource Manager."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.azure.resources import Resource
from tests.azure.running import Served, azure
from tests.contract import doubles
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.azure_drill import Cloud, Errand, carry_out
from tests.scenarios.recovery.lives import PROCESSES
from tests.scenarios.recovery.test_jobs_killed import identifier

from farshore.catalog import sites
from farshore.catalog.database import Catalog
from farshore.catalog.tables import SiteRow
from farshore.sites.azure.names import FAILOVER

SOAK = os.environ.get("FARSHORE_SOAK") == "1"
STRIDE = 1 if SOAK else 24
"""The gate dies at a few moments, the long set at all."""


@dataclass(frozen=True)
class World:
    """A prepared home, and the double that its site is at."""

    home: Path
    served: Served

    @property
    def cloud(self) -> Cloud:
        return Cloud(dict(self.served.settings), self.served.secret)

    def live(self, home: Path, errands: Sequence[Errand], at: int = 0, cancel_on: str = "") -> int | None:
        """Have a server carry them out; the exit code of its process."""
        process = PROCESSES.Process(target=carry_out, args=(home, self.cloud, tuple(errands), at, cancel_on))
        process.start()
        process.join(240)
        return process.exitcode

    def of(self, failover: str) -> list[Resource]:
        """All that Azure has of a failover: by its name or its tags."""
        every = self.served.double.known.held.items()
        return [one for path, one in every if failover in path or (one.get("tags") or {}).get(FAILOVER) == failover]

    def held(self) -> set[str]:
        return set(self.served.double.known.held)

    def networks(self) -> list[Resource]:
        return [one for _, one in self.served.double.known.of("virtualNetworks")]

    def disk(self, failover: str) -> bytes:
        (disk,) = [one for one in self.of(failover) if one.get("type", "").endswith("disks")]
        data: bytes = self.served.double.known.blobs.direct(disk["properties"]["uniqueId"]).download_blob().readall()
        return data


@contextlib.contextmanager
def open_world(home: Path, files: Path) -> Iterator[World]:
    """Prepare one; skip where Azurite cannot be started."""
    drill.prepare(home)
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.writing() as tx:
        sites.add(tx, SiteRow(id="cloud", kind="azure"))
    catalog.close()
    try:
        with doubles.azurite() as (_, environment), azure(files, environment) as served:
            yield World(home, served)
    except FileNotFoundError as missing:
        pytest.skip(f"Azurite cannot be started here: {missing}")


@contextlib.contextmanager
def put_back(world: World) -> Iterator[None]:
    """What a test leaves is nothing to the next one."""
    known = world.served.double.known
    before = copy.copy(known.held)
    yield
    known.cores = 100
    world.served.double.faults.clear()
    known.held.clear()
    known.held |= before


def ask(home: Path, kind: str) -> Errand:
    """A failover that was asked for, and its job."""
    errand = Errand("test-failover" if kind == "test" else kind, identifier(), identifier())
    drill.request(home, errand.failover, errand.job, kind, site="cloud")
    return errand


def about(errand: Errand, kind: str) -> Errand:
    return Errand(kind, errand.failover, identifier())
