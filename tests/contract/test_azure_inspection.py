"""What `farshore azure check` finds, by the double: what is missing with the command that mends it, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.azure.double import CLIENT, GROUP, REGION, SUBSCRIPTION
from tests.contract.azure_place import AzurePlace, azure_place
from tests.contract.conftest import Double

from farshore.sites.azure import mending, paths
from farshore.sites.azure.clients import clients
from farshore.sites.azure.inspecting import inspect
from farshore.sites.azure.rights import NEEDED, lacking
from farshore.sites.azure.settings import AzureSettings
from farshore.sites.azure.site import AzureSite
from farshore.sites.port import Finding, Inspected


@pytest.fixture(scope="module")
def place(double: Double, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzurePlace]:
    folder, disks = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("disks")
    with azure_place(folder, disks, double("azurite")[1]) as made:
        yield made


@pytest.fixture(autouse=True)
def clean(place: AzurePlace) -> Iterator[None]:
    place.served.double.accounts = {"vault1": account()}
    yield
    served = place.served.double
    served.actions, served.state, served.known.cores = ["*"], "Enabled", 100
    served.faults.clear()


def account(**changes: Any) -> dict[str, Any]:
    properties = {"primaryEndpoints": {"blob": "https://vault1.blob.core.windows.net/"}}
    shown = {"name": "vault1", "location": REGION, "kind": "StorageV2", "sku": {"name": "Standard_ZRS"}}
    return {**shown, "properties": properties, **changes}


def found(place: AzurePlace, reach: paths.Reach = lambda *_: "20.60.1.1", **changes: Any) -> dict[str, Finding]:
    settings = AzureSettings.model_validate({**place.served.settings, "storage_account": "vault1", **changes})
    site = place.keep(AzureSite(place.folder, settings, secret=place.served.secret))
    told = list(inspect(clients(settings, place.served.secret), settings, lambda: site._sizes, reach))
    return {one.subject: one for one in told if one.missing or one.remedy} or {one.subject: one for one in told}


def test_nothing_is_missing_where_all_is_there(place: AzurePlace) -> None:
    every = found(place)
    assert list(every) == [
        "identity", "subscription", "resource group", "permissions", "region", "sizes", "cores", "virtual network",
        "process server", "storage account", "network path",
    ]  # fmt: skip
    assert not any(one.missing or one.remedy for one in every.values())
    assert every["sizes"].found == "up to 8 processors and 32 GiB (Standard_D8s_v5), V1/V2"
    assert every["storage account"].found == "vault1: Standard_ZRS, StorageV2, in westeurope"
    assert "site-to-site VPN does not carry public endpoints" in every["network path"].found
    assert isinstance(place.site, Inspected)
    assert "storage account" in {one.subject for one in place.site.inspect()}


def test_rights_that_are_missing_are_named(place: AzurePlace) -> None:
    place.served.double.actions = ["Microsoft.Compute/*", "Microsoft.Network/*/read"]
    (one,) = found(place).values()
    assert one.missing
    assert "Microsoft.Network/networkInterfaces/write" in one.found
    assert one.remedy.startswith(f"az role assignment create --assignee {CLIENT} --role Contributor --scope /subscri")


@pytest.mark.parametrize(
    ("permission", "lacks"),
    [
        ({"actions": ["*"]}, []),
        ({"actions": list(NEEDED)}, []),
        ({"actions": ["*"], "notActions": ["microsoft.compute/disks/*"]}, 5),
        ({"actions": ["Microsoft.Compute/virtualMachines/*", "Microsoft.Compute/disks/*"]}, 18),
        ({"actions": []}, len(NEEDED)),
    ],
)
def test_wildcards_of_rights(permission: dict[str, Any], lacks: list[str] | int) -> None:
    assert len(lacking([permission])) == (lacks if isinstance(lacks, int) else 0)


@pytest.mark.parametrize(
    ("changes", "subject", "said", "remedy"),
    [
        (
            {"resource_group": "nowhere"},
            "resource group",
            "no resource group nowhere",
            "az group create --name nowhere",
        ),
        ({"virtual_network": "other"}, "virtual network", "no virtual network other", "az network vnet create"),
        ({"size": "Standard_X1"}, "sizes", "no size Standard_X1", "az vm list-skus"),
        ({"storage_account": "elsewhere"}, "storage account", "no storage account", "az storage account create"),
        ({"region": "nowhere"}, "region", "no size", "az vm list-skus --location nowhere"),
    ],
)
def test_what_is_not_there_has_its_command(
    place: AzurePlace, changes: dict[str, str], subject: str, said: str, remedy: str
) -> None:
    one = found(place, **changes)[subject]
    assert one.missing
    assert said in one.found
    assert remedy in one.remedy


def test_the_identity_of_process_servers_is_looked_for(place: AzurePlace) -> None:
    one = found(place, process_server_identity="servers")["process server"]
    assert one.missing
    assert one.remedy.startswith("az identity create --name servers --resource-group recovery")
    assert "process server" not in found(place, process_server="own")
    unnamed = found(place, process_server_package="")["process server"]
    assert not unnamed.missing, "a failover does without it"
    assert "sha256=DIGEST" in unnamed.remedy
    known = place.served.double.known.held
    path = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.ManagedIdentity/"
    path += "userAssignedIdentities/servers"
    known[path.lower()] = {"id": path, "name": "servers", "location": REGION, "properties": {}}
    try:
        assert found(place, process_server_identity="servers")["process server"].found == "temporary, as servers"
    finally:
        del known[path.lower()]
    place.served.double.actions = list(NEEDED)
    assert not any(one.missing for one in found(place).values())
    lacks = found(place, process_server_identity="servers")["permissions"]
    assert "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action" in lacks.found


def test_a_subscription_that_is_off_and_a_quota_that_is_used_up(place: AzurePlace) -> None:
    place.served.double.state, place.served.double.known.cores = "Disabled", 0
    every = found(place)
    assert set(every) == {"subscription", "cores"}
    assert "Disabled" in every["subscription"].found


def test_one_question_that_fails_ends_no_other(place: AzurePlace) -> None:
    place.served.double.faults.order("Authorization/permissions", "403")
    (one,) = found(place).values()
    assert (one.subject, one.missing) == ("permissions", True)


def refuse(*_: object) -> str:
    raise OSError("timed out")


@pytest.mark.parametrize(
    ("reach", "properties", "missing", "said"),
    [
        (lambda *_: "10.20.0.9", {}, False, "private endpoint"),
        (lambda *_: "20.60.1.1", {"publicNetworkAccess": "Disabled"}, True, "closed to those"),
        (refuse, {}, True, "does not answer"),
    ],
)
def test_the_path_to_the_store(
    place: AzurePlace, reach: paths.Reach, properties: dict[str, str], missing: bool, said: str
) -> None:
    shown = account()
    place.served.double.accounts = {"vault1": {**shown, "properties": {**shown["properties"], **properties}}}
    one = found(place, reach)["network path"]
    assert (one.missing, said in one.found) == (missing, True)


def test_a_store_that_holds_no_vault_or_is_far_away(place: AzurePlace) -> None:
    place.served.double.accounts = {"vault1": account(sku={"name": "Premium_LRS"})}
    assert found(place)["storage account"].missing
    place.served.double.accounts = {"vault1": account(kind="BlockBlobStorage", sku={"name": "Premium_LRS"})}
    assert not found(place)["storage account"].missing
    place.served.double.accounts = {"vault1": account(location="eastus")}
    one = found(place)["storage account"]
    assert (one.missing, "eastus" in one.found) == (False, True)


def test_the_file_that_mends_it_names_every_right(place: AzurePlace, tmp_path: Path) -> None:
    settings = AzureSettings.model_validate({**place.served.settings, "storage_account": "vault1"})
    text = mending.bicep(settings)
    assert all(f"'{action}'" in text for action in NEEDED)
    assert "name: 'production'" in text
    assert "name: 'vault1'" in text
    for bracket in ("{}", "[]", "()"):
        assert text.count(bracket[0]) == text.count(bracket[1])
    assert "{{" not in text
