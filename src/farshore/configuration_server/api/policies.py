"""Routes for replication policies."""

from __future__ import annotations

from farshore.api_types.policies import Policy, PolicyChange
from farshore.catalog import events, policies
from farshore.catalog.change_details import Details, changed, fields_of, gone, in_words, made
from farshore.catalog.database import Transaction
from farshore.catalog.tables import PolicyRow
from farshore.configuration_server.api import views
from farshore.configuration_server.api.parameters import Named
from farshore.configuration_server.identity import Identity
from farshore.configuration_server.services import Services
from farshore.configuration_server.web.callers import Contributor, Installation, Reader
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.bandwidth import check_schedule
from farshore.model.policy import ReplicationPolicy, check_retention
from farshore.recovery.targets import policy_choice
from farshore.vault.stores.tier import is_premium

_RETENTION = frozenset({"hot_window", "keep_hourly", "keep_daily", "keep_weekly"})

router = GatedRouter(prefix="/v1/policies", tags=["policies"])


@router.get("")
def list_policies(_user: Reader, installation: Installation) -> list[Policy]:
    """Return all policies."""
    with installation.catalog.reading() as tx:
        return [_view(tx, row) for row in policies.every(tx)]


@router.get("/{name}")
def show_policy(name: Named, _user: Reader, installation: Installation) -> Policy:
    """Return one policy."""
    with installation.catalog.reading() as tx:
        return _view(tx, policies.get(tx, name))


@router.post("", status_code=201)
def create_policy(request: Policy, user: Contributor, installation: Installation) -> Policy:
    """Create a policy and its failback policy."""
    check_schedule(request.bandwidth, request.time_zone)
    asked = request.model_dump(exclude={"target", "failback", "reverses", "warnings"})
    values = {**asked, "target": policy_choice(request.target)}
    premium = is_premium(installation.vault.url)
    with installation.catalog.writing() as tx:
        row = policies.create(tx, ReplicationPolicy(**values))
        warnings = _minded(row, premium)
        _tell(tx, installation, user, "policy.created", request.name, made(values))
        return _view(tx, row).model_copy(update={"warnings": warnings})


@router.patch("/{name}")
def change_policy(name: Named, request: PolicyChange, user: Contributor, installation: Installation) -> Policy:
    """Change some values of a policy. Its failback policy follows, except for values that were set there. Machines
    follow with their next heartbeat."""
    values = request.model_dump(exclude_none=True, exclude={"target"})
    if request.target is not None:
        values["target"] = policy_choice(request.target)
    premium = is_premium(installation.vault.url) if _RETENTION & set(values) else None
    with installation.catalog.writing() as tx:
        before = policies.get(tx, name)
        check_schedule(values.get("bandwidth", before.bandwidth), values.get("time_zone", before.time_zone))
        old = fields_of(before, values)
        row = policies.change(tx, name, values)
        warnings = _minded(row, premium)
        details = changed(old, fields_of(row, values))
        _tell(tx, installation, user, "policy.changed", name, details)
        return _view(tx, row).model_copy(update={"warnings": warnings})


@router.delete("/{name}", status_code=204)
def delete_policy(name: Named, user: Contributor, installation: Installation) -> None:
    """Delete a policy that no machine uses, with its failback policy."""
    with installation.catalog.writing() as tx:
        row = policies.get(tx, name)
        values = views.policy(row).model_dump(mode="json", exclude={"name"})
        policies.delete(tx, name)
        _tell(tx, installation, user, "policy.deleted", name, gone(values))


def _minded(row: PolicyRow, premium: bool | None) -> list[str]:
    """Return warnings about its retention. Raises Refused."""
    if premium is None:
        return []
    said = check_retention(row.hot_window, row.keep_hourly, row.keep_daily, row.keep_weekly, premium=premium)
    return [said] if said else []


def _view(tx: Transaction, row: PolicyRow) -> Policy:
    return views.policy(row, policies.failback_names(tx).get(row.name, ""))


def _tell(tx: Transaction, installation: Services, user: Identity, kind: str, name: str, detail: Details) -> None:
    verb = kind.partition(".")[2]
    if kind == "policy.changed":
        verb += f": {in_words(detail)}"
    events.record(
        tx,
        time=installation.clock.now(),
        kind=kind,
        actor=user.actor,
        subject=f"policy/{name}",
        message=f"Policy {name} was {verb}.",
        detail=detail,
    )
