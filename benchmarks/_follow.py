"""Discovery in a process of its own, as the configuration server does it in a thread: rows in a catalog.

Standard input: one JSON object with ``catalog`` (URL), ``host``, ``port``, ``user``, ``certificate`` and ``password``.
"""

from __future__ import annotations

import json
import sys

from farshore.catalog.database import Catalog
from farshore.clock import SystemClock
from farshore.configuration_server.discoveries import CatalogSink
from farshore.vsphere.following import Follower
from farshore.vsphere.session import Login

NAME = "benchmark"


def main() -> None:
    """Follow until killed."""
    asked = json.load(sys.stdin)
    login = Login(asked["host"], asked["port"], asked["user"], asked["certificate"], asked["password"])
    Follower(lambda: login, CatalogSink(Catalog(asked["catalog"]), SystemClock(), NAME)).run()


if __name__ == "__main__":
    main()
