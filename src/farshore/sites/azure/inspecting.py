"""What an Azure site needs, one thing after another: what there is of it, what is missing, and the command that mends
that. Nothing is changed, and what cannot be looked at ends nothing but its own question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from azure.core.exceptions import AzureError

from farshore.model.errors import FarshoreError, NotFound, Refused
from farshore.sites.azure import paths
from farshore.sites.azure.answers import explain
from farshore.sites.azure.clients import Clients
from farshore.sites.azure.examining import free_cores, network_of, region_of
from farshore.sites.azure.process_server import unnamed_package
from farshore.sites.azure.rights import lacking, needed
from farshore.sites.azure.settings import AzureSettings
from farshore.sites.azure.sizes import Size
from farshore.sites.port import Finding

_ASK = "az login, then see: az account show"
_CONTRIBUTOR = "az role assignment create --assignee {who} --role Contributor --scope {scope}"


def inspect(
    clients: Clients, settings: AzureSettings, sizes: Callable[[], list[Size]], reach: paths.Reach = paths.reach
) -> Iterator[Finding]:
    """Every finding, in the order in which people mend them."""
    yield _found("identity", lambda: _identity(clients, settings))
    yield _found("subscription", lambda: _subscription(clients, settings))
    yield _found("resource group", lambda: _group(clients, settings))
    yield _found("permissions", lambda: _permissions(clients, settings))
    yield _found("region", lambda: region_of(settings, len(sizes())))
    yield _found("sizes", lambda: _sizes(settings, sizes()))
    yield _found("cores", lambda: free_cores(clients, settings))
    yield _found("virtual network", lambda: network_of(clients, settings))
    if settings.process_server == "temporary" and not settings.process_server_package:
        unnamed = unnamed_package()
        yield Finding("process server", unnamed.message, unnamed.remedy)  # machines come up without it
    elif settings.process_server == "temporary":
        yield _found("process server", lambda: _process_server(clients, settings))
    if not settings.storage_account:
        yield Finding("storage account", "not named: its retention and the path to it are not looked at", "")
        return
    account: Mapping[str, Any] = {}

    def known() -> str:
        nonlocal account
        account = _account(clients, settings)
        return _told(account)

    yield _found("storage account", known)
    if account:
        yield from _warnings(settings, account)
        yield _found("network path", lambda: paths.told(account, reach))


def _found(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, look())
    except AzureError as error:
        told: FarshoreError = explain(error)
    except FarshoreError as error:
        told = error
    return Finding(subject, told.message, told.remedy, missing=True)


def _identity(clients: Clients, settings: AzureSettings) -> str:
    clients.credential.get_token(f"{settings.resource_manager}/.default")
    return f"{settings.identity}{f', client {settings.client}' if settings.client else ''}: Azure knows it"


def _subscription(clients: Clients, settings: AzureSettings) -> str:
    found = clients.ask(f"/subscriptions/{settings.subscription}", "2022-12-01")
    state = str(found.get("state", ""))
    if state not in ("Enabled", "PastDue", "Warned"):
        raise Refused(
            f"The subscription {settings.subscription} is {state or 'in an unknown state'}.",
            remedy="See the portal: Subscriptions. Pay it or enable it again.",
        )
    return f"{found.get('displayName', settings.subscription)}: {state}"


def _group(clients: Clients, settings: AzureSettings) -> str:
    try:
        found = clients.ask(_scope(settings), "2022-09-01")
    except NotFound as error:
        raise Refused(
            f"There is no resource group {settings.resource_group}.",
            remedy=f"az group create --name {settings.resource_group} --location {settings.region}",
        ) from error
    where = str(found.get("location", ""))
    beside = "" if where == settings.region else f"; machines and disks are made in {settings.region}"
    return f"{settings.resource_group} in {where}{beside}"


def _permissions(clients: Clients, settings: AzureSettings) -> str:
    path = f"{_scope(settings)}/providers/Microsoft.Authorization/permissions"
    wanted = needed(identity=settings.process_server_identity)
    lacks = lacking(clients.ask(path, "2022-04-01").get("value", ()), wanted)
    if lacks:
        shown = ", ".join(lacks[:4]) + (f" and {len(lacks) - 4} more" if len(lacks) > 4 else "")
        raise Refused(
            f"The identity lacks {len(lacks)} rights in {settings.resource_group}: {shown}.",
            remedy=_CONTRIBUTOR.format(who=settings.client or "OBJECT-ID", scope=_scope(settings))
            + ", or the role of the Bicep file, which has no more than is needed",
        )
    return "all that is needed"


def _process_server(clients: Clients, settings: AzureSettings) -> str:
    """The identity of temporary process servers."""
    name, group = settings.process_server_identity, settings.resource_group
    if not name:
        return "temporary, without an identity: its image must bring what opens the vault's store"
    try:
        path = f"{_scope(settings)}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
        clients.ask(path, "2023-01-31")
    except NotFound as error:
        raise Refused(
            f"There is no managed identity {name} in {group}.",
            remedy=f"az identity create --name {name} --resource-group {group}, and give it the role Storage Blob Data "
            "Contributor on the vault's account",
        ) from error
    return f"temporary, as {name}"


def _sizes(settings: AzureSettings, sizes: Iterable[Size]) -> str:
    every = list(sizes)
    premium = [one for one in every if one.premium or not settings.sku.startswith("Premium")]
    if settings.size and not any(one.name.lower() == settings.size.lower() for one in premium):
        raise Refused(
            f"{settings.region} offers no size {settings.size} with {settings.sku} disks.",
            remedy=f"az vm list-skus --location {settings.region} --size {settings.size}; choose another size or sku.",
        )
    if not premium:
        raise Refused(f"No size there takes {settings.sku} disks.", remedy="Add the site with another sku.")
    largest = max(premium, key=lambda one: (one.cores, one.memory))
    generations = sorted({name for one in premium for name in one.generations})
    return f"up to {largest.cores} processors and {largest.memory >> 30} GiB ({largest.name}), {'/'.join(generations)}"


def _account(clients: Clients, settings: AzureSettings) -> Mapping[str, Any]:
    name, group = settings.storage_account, settings.resource_group
    try:
        return clients.ask(f"{_scope(settings)}/providers/Microsoft.Storage/storageAccounts/{name}", "2023-05-01")
    except NotFound as error:
        raise Refused(
            f"There is no storage account {name} in {group}.",
            remedy=f"az storage account create --name {name} --resource-group {group} --location {settings.region} "
            "--sku Standard_ZRS --kind StorageV2 --min-tls-version TLS1_2 --allow-blob-public-access false",
        ) from error


def _told(account: Mapping[str, Any]) -> str:
    return f"{account['name']}: {account['sku']['name']}, {account.get('kind', '')}, in {account.get('location', '')}"


def _warnings(settings: AzureSettings, account: Mapping[str, Any]) -> Iterator[Finding]:
    if account.get("location") != settings.region:
        message = f"The store is in {account.get('location')}, machines come up in {settings.region}"
        yield Finding("storage account", message, "A disk's upload crosses regions, which costs: use one region.")
    if account.get("kind") == "BlobStorage" or str(account["sku"]["name"]).startswith("Premium_") != (
        account.get("kind") == "BlockBlobStorage"
    ):
        yield Finding(
            "storage account",
            f"A {account.get('kind')} account of {account['sku']['name']} does not take a vault's block blobs",
            "Use StorageV2 (standard) or BlockBlobStorage (premium).",
            missing=True,
        )


def _scope(settings: AzureSettings) -> str:
    return f"/subscriptions/{settings.subscription}/resourceGroups/{settings.resource_group}"
