"""A program: the mobility service with one old fault put back, to see whether a round of fire finds it.

``landed``: writes in flight are taken as landed. ``mended``: what is mended lies above newer records. ``refused``:
writes are taken down before the block layer has accepted them, so what it refuses is in the stream until the machine
has healed. ``blind``: a release that takes over does not read what was noted since the hand-over.
"""

from __future__ import annotations

import sys

import numpy as np

from farshore.mobility.capture import watched
from farshore.mobility.capture.flights import Flights
from farshore.mobility.main import main
from farshore.mobility.stream import replication
from farshore.mobility.stream.recorded import RecordedSectors


def put_back(fault: str) -> None:
    """Raises KeyError for one that is not known."""
    {"landed": _landed, "mended": _mended, "refused": _refused, "blind": _blind}[fault]()


def _landed() -> None:
    Flights.not_ended = lambda self, before: None  # type: ignore[method-assign]


def _mended() -> None:
    RecordedSectors.within = lambda self, disk, first, end: np.zeros(end - first, bool)  # type: ignore[method-assign]


def _refused() -> None:
    watched.works_on_requests = lambda device: False


def _blind() -> None:
    replication.harvest = lambda document: {}


if __name__ == "__main__":
    put_back(sys.argv.pop(1))
    sys.exit(main())
