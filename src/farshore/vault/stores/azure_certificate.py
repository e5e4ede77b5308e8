"""A storage account opened by the certificate of a service principal: the one identity that the object store library
does not know by itself. It is named as Azure's own tools name it, by AZURE_CLIENT_CERTIFICATE_PATH."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from farshore.model.errors import Malformed, Unsupported

if TYPE_CHECKING:
    from obstore.store import AzureCredential

_LOGIN = "https://login.microsoftonline.com"


def by_certificate() -> Callable[[], AzureCredential] | None:
    """What gets tokens by the certificate that the environment names; None where it names none. Raises Malformed,
    Unsupported."""
    path = os.environ.get("AZURE_CLIENT_CERTIFICATE_PATH", "")
    if not path:
        return None
    tenant, client = os.environ.get("AZURE_TENANT_ID", ""), os.environ.get("AZURE_CLIENT_ID", "")
    if not tenant or not client:
        raise Malformed(
            "AZURE_CLIENT_CERTIFICATE_PATH is set without AZURE_TENANT_ID and AZURE_CLIENT_ID.",
            remedy="Set both in the environment.",
        )
    try:
        from azure.identity import CertificateCredential
        from obstore.auth.azure import AzureCredentialProvider
    except ModuleNotFoundError as error:
        raise Unsupported("Azure's libraries are not installed.", remedy="pip install 'farshore[azure]'") from error
    authority = os.environ.get("AZURE_AUTHORITY_HOST", _LOGIN)
    more: dict[str, Any] = {"password": os.environ.get("AZURE_CLIENT_CERTIFICATE_PASSWORD") or None}
    if "login.microsoftonline" not in authority:
        more["disable_instance_discovery"] = True  # a private cloud's login service is not in Microsoft's list
    try:
        credential = CertificateCredential(tenant, client, path, authority=authority, **more)
    except (OSError, ValueError) as error:
        raise Malformed(
            f"{path} is no certificate with its key: {error}.",
            remedy="Put both, with an RSA key, into one PEM or PFX file; AZURE_CLIENT_CERTIFICATE_PASSWORD opens it.",
        ) from error
    return AzureCredentialProvider(credential)
