"""What the policies say of retention, kept in the vault, so that upkeep without a server lets go what a server would.

The configuration server writes it when a policy changes; versions are created only, and the newest counts. Two servers
that write at once write what the catalog says: the next round of either corrects what came too late.
"""

from __future__ import annotations

from typing import Any

from farshore.formats import vault_names
from farshore.model.errors import Damaged, NotFound, TryLater
from farshore.model.identifiers import MachineId
from farshore.model.policy import ReplicationPolicy
from farshore.vault.objects.opening import read_document, seal_document
from farshore.vault.vault import Vault

KEEP_ALL = ReplicationPolicy(name="", hot_window=100 * 366 * 86400)
"""Of a machine whose policy is not known: no point goes."""
_TRIES = 20
_FIELDS = ("hot_window", "keep_hourly", "keep_daily", "keep_weekly")


def read(vault: Vault, machine: MachineId) -> ReplicationPolicy | None:
    """Return the machine's policy as far as the vault knows it: its name and its retention, or None if it does not.
    Raises Damaged, the store's errors."""
    return _newest(vault, machine)[1]


def write(vault: Vault, machine: MachineId, policy: ReplicationPolicy) -> bool:
    """Have the vault know the retention of a machine; return False if it does already. May be stopped and repeated.
    Raises NotFound if the vault holds nothing of the machine, the store's errors."""
    for _ in range(_TRIES):
        try:
            version, known = _newest(vault, machine)
        except Damaged:
            version, known = _versions(vault, machine)[-1], None
        if known is not None and _fields(known) == _fields(policy):
            return False
        name = vault_names.retention(machine, version + 1)
        document = seal_document(vault.machine(machine).key, name, {"format": 1, **_fields(policy)})
        if vault.store.put_if_absent(name, document.buffers):
            for older in _versions(vault, machine):
                if older <= version:
                    vault.store.delete(vault_names.retention(machine, older))
            return True
    raise TryLater("The retention is being changed by others.", remedy="It is retried by itself.")


def stored_or_all(vault: Vault, machine: MachineId) -> ReplicationPolicy:
    """Return the retention that the vault knows, and for a machine of which it knows none, one by which every point
    stays."""
    return read(vault, machine) or KEEP_ALL


def _fields(policy: ReplicationPolicy) -> dict[str, Any]:
    return {"policy": policy.name, **{field: getattr(policy, field) for field in _FIELDS}}


def _versions(vault: Vault, machine: MachineId) -> list[int]:
    names = (item.name.rpartition("/")[2] for item in vault.store.list(vault_names.retention_folder(machine)))
    return sorted(int(name, 16) for name in names)


def _newest(vault: Vault, machine: MachineId) -> tuple[int, ReplicationPolicy | None]:
    for _ in range(_TRIES):
        versions = _versions(vault, machine)
        if not versions:
            return 0, None
        name, key = vault_names.retention(machine, versions[-1]), vault.machine(machine).key
        try:
            fields = read_document(vault.store, key, name)
            window, hourly, daily, weekly = (int(fields[field]) for field in _FIELDS)
            if min(window, hourly, daily, weekly) < 0:
                raise ValueError("a negative number")
            known = ReplicationPolicy(
                name=str(fields["policy"]),
                hot_window=window,
                keep_hourly=hourly,
                keep_daily=daily,
                keep_weekly=weekly,
            )
            return versions[-1], known
        except NotFound:  # a newer version came
            continue
        except (KeyError, TypeError, ValueError, OverflowError) as cause:
            raise Damaged(
                f"{name} does not describe a retention.",
                remedy="Start the configuration server, which writes it again. Until then no point of the "
                "machine is deleted.",
            ) from cause
    raise TryLater("The retention is being changed by others.", remedy="Try again.")
