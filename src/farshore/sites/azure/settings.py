"""What may be set about an Azure site."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_UUID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
Name = Annotated[str, Field(max_length=90, pattern=r"^[\w.()-]+$")]
OptionalName = Annotated[str, Field(max_length=90, pattern=r"^[\w.()-]*$")]
_IMAGE = r"^([\w.-]+:[\w.-]+:[\w.-]+:[\w.-]+|/subscriptions/[\w./()-]+)$"
Https = Annotated[str, Field(max_length=200, pattern=r"^https://[\w.:-]+$")]


class AzureSettings(BaseModel):
    """``identity``: how this host shows who it is: as a ``managed`` identity (``client`` names a user-assigned one), by
    the ``secret`` or the ``certificate`` (PEM, with its key) of a service principal, which is the site's secret, by
    ``workload`` identity of Kubernetes, or as whoever has logged in by ``cli``.

    ``storage_account``: that of the vault, in the resource group: it is looked at by checks only.
    ``virtual_network``: the network, in the resource group, whose subnets cards are on by name. ``size``: of every
    machine; empty: the smallest that fits each. ``sku``: of its disks. ``public_address``: machines get one, at which
    ``reached_from`` (prefixes, with commas) may connect to forwarded ports. ``resource_manager``, ``login`` and
    ``authority_file`` are those of other clouds than the public one.

    ``process_server``: recovered machines that are replicated from here send to a ``temporary`` process server beside
    them, or to their ``own``. The others say what the temporary one is: ``…_image`` PUBLISHER:OFFER:SKU:VERSION or the
    id of an image, ``…_size`` empty: the smallest that does, ``…_package`` what pip installs there (empty: this
    release), ``…_identity`` the managed identity in the resource group with which it opens the vault's store,
    ``…_public`` whether it gets a public address, from which it reaches the Internet."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    subscription: Annotated[str, Field(pattern=_UUID)]
    resource_group: Name
    region: Annotated[str, Field(max_length=40, pattern=r"^[a-z0-9]+$")]
    identity: Literal["managed", "secret", "certificate", "workload", "cli"] = "managed"
    tenant: Annotated[str, Field(pattern=rf"{_UUID}|^$")] = ""
    client: Annotated[str, Field(pattern=rf"{_UUID}|^$")] = ""
    virtual_network: OptionalName = ""
    storage_account: Annotated[str, Field(pattern=r"^([a-z0-9]{3,24})?$")] = ""
    size: OptionalName = ""
    sku: Literal["Premium_LRS", "StandardSSD_LRS", "Standard_LRS", "Premium_ZRS", "StandardSSD_ZRS"] = "Premium_LRS"
    zone: Annotated[str, Field(pattern=r"^[1-9]?$")] = ""
    availability_set: OptionalName = ""
    public_address: bool = False
    reached_from: Annotated[str, Field(max_length=1000, pattern=r"^[0-9a-fA-F.:/,]*$")] = ""
    process_server: Literal["temporary", "own"] = "temporary"
    process_server_image: Annotated[str, Field(max_length=400, pattern=_IMAGE)] = "Debian:debian-12:12-gen2:latest"
    process_server_size: OptionalName = ""
    process_server_package: Annotated[str, Field(max_length=500, pattern=r"^[ -~]*$")] = ""
    process_server_identity: OptionalName = ""
    process_server_public: bool = False
    resource_manager: Https = "https://management.azure.com"
    login: Https = "https://login.microsoftonline.com"
    authority_file: Annotated[str, Field(max_length=400)] = ""
    poll_seconds: Annotated[float, Field(ge=0.01, le=60)] = 5.0
    """Between two looks at a long operation, where Azure does not say how long to wait."""
