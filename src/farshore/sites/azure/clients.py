"""The SDKs' clients of one site: who we are, and which api-versions we speak."""

from __future__ import annotations

import functools
import re
from typing import Any

from azure.core.credentials import TokenCredential
from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.core.rest import HttpRequest
from azure.identity import (
    AzureCliCredential,
    CertificateCredential,
    ClientSecretCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient

from farshore.model.errors import Malformed
from farshore.sites.azure.answers import explained_by_azure
from farshore.sites.azure.settings import AzureSettings

VERSIONS = {
    "microsoft.compute/virtualmachines": "2024-07-01",
    "microsoft.compute/locations": "2024-07-01",
    "microsoft.compute/disks": "2024-03-02",
    "microsoft.compute/skus": "2021-07-01",
    "microsoft.network/networkinterfaces": "2024-05-01",
    "microsoft.network/networksecuritygroups": "2024-05-01",
    "microsoft.network/publicipaddresses": "2024-05-01",
    "microsoft.network/virtualnetworks": "2024-05-01",
    "microsoft.authorization/permissions": "2022-04-01",
    "microsoft.storage/storageaccounts": "2023-05-01",
}
"""By type: the SDKs' own defaults change with their releases, and private clouds are behind the public one."""
_TYPE = re.compile(r"/providers/([\w.]+/\w+)", re.IGNORECASE)
_OPERATION = re.compile(r"/(operations|operationResults|results)/", re.IGNORECASE)
_VERSION = re.compile(r"api-version=[\w-]+")


class Clients:
    """``compute`` and ``network``, of the subscription of the settings."""

    def __init__(self, settings: AzureSettings, secret: bytes) -> None:
        verify: Any = settings.authority_file or True
        self.credential = _credential(settings, secret, verify)
        common: dict[str, Any] = {
            "base_url": settings.resource_manager,
            "credential_scopes": [f"{settings.resource_manager}/.default"],
            "connection_verify": verify,
            "connection_timeout": 10,
            "read_timeout": 60,
            "retry_total": 4,
            "retry_backoff_factor": 0.5,
            "polling_interval": settings.poll_seconds,
            "per_call_policies": [PinnedVersions()],
        }
        self.compute = ComputeManagementClient(self.credential, settings.subscription, **common)
        self.network = NetworkManagementClient(self.credential, settings.subscription, **common)

    def ask(self, path: str, version: str) -> dict[str, Any]:
        """What a resource is like, for those few of which nothing else is wanted. Raises AzureError, NotFound."""
        request = HttpRequest("GET", f"{path}?api-version={version}")
        with explained_by_azure():
            answer = self.compute.send_request(request)
            answer.raise_for_status()
            return dict(answer.json())

    def close(self) -> None:
        """Close their connections."""
        self.compute.close()
        self.network.close()
        close = getattr(self.credential, "close", None)
        if close is not None:
            close()


@functools.lru_cache(maxsize=16)
def clients(settings: AzureSettings, secret: bytes) -> Clients:
    """Those of a site: a site is opened anew for each job, its token and connections stay."""
    return Clients(settings, secret)


class PinnedVersions(SansIOHTTPPolicy[Any, Any]):
    """Asks for the api-versions of VERSIONS. An operation that an answer named is asked for as named."""

    def on_request(self, request: PipelineRequest[Any]) -> None:
        """See SansIOHTTPPolicy."""
        url = request.http_request.url
        found = _TYPE.search(url)
        version = VERSIONS.get(found[1].lower()) if found and not _OPERATION.search(url) else None
        if version is not None:
            request.http_request.url = _VERSION.sub(f"api-version={version}", url)


def _by_certificate(settings: AzureSettings, secret: bytes, common: dict[str, Any]) -> TokenCredential:
    try:
        return CertificateCredential(settings.tenant, settings.client, certificate_data=secret, **common)
    except ValueError as error:
        raise Malformed(
            f"The site's secret is no certificate with its key: {error}.",
            remedy="Add the site with a PEM file that has both; the key is an RSA key.",
        ) from error


def _credential(settings: AzureSettings, secret: bytes, verify: Any) -> TokenCredential:
    common: dict[str, Any] = {"authority": settings.login, "connection_verify": verify}
    if "login.microsoftonline" not in settings.login:
        common["disable_instance_discovery"] = True  # a private cloud's login service is not in Microsoft's list
    if settings.identity == "managed":
        return ManagedIdentityCredential(client_id=settings.client or None)
    if settings.identity == "cli":
        return AzureCliCredential(tenant_id=settings.tenant)
    if not (settings.tenant and settings.client):
        raise Malformed(
            f"An Azure site with the identity {settings.identity!r} needs tenant and client.",
            remedy="Add the site with both: --setting tenant=… --setting client=…",
        )
    if settings.identity == "workload":
        return WorkloadIdentityCredential(tenant_id=settings.tenant, client_id=settings.client, **common)
    if not secret:
        raise Malformed(
            f"An Azure site with the identity {settings.identity!r} needs the service principal's secret.",
            remedy="Add the site with --secret-file.",
        )
    if settings.identity == "certificate":
        return _by_certificate(settings, secret, common)
    return ClientSecretCredential(settings.tenant, settings.client, secret.decode().strip(), **common)
