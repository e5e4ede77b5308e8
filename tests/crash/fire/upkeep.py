"""A program: keeps a vault up without a pause, by a policy that is hot for a minute only, until it is killed.

The configuration server does the same every minute or hour; here every kill finds it in the middle of something.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from farshore.model.errors import FarshoreError
from farshore.model.policy import ReplicationPolicy
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.upkeep.rebase import rebase
from farshore.vault.upkeep.turns import maintain

POLICY = ReplicationPolicy(hot_window=60, keep_hourly=48)


def main(url: str, key: str) -> None:
    """Until killed."""
    vault: Vault | None = None
    while True:
        try:
            vault = vault or Vault.open(open_store(url), OwnerKey.from_file(Path(key)))
            maintain(vault, lambda _machine: POLICY)
            for machine in vault.machines():
                rebase(vault.machine(machine), longest=2)
        except FarshoreError as error:
            sys.stderr.write(f"{error}\n")
        time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
