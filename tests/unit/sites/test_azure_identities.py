"""Which of Azure's identities a site's settings choose. That a secret logs in is shown by tests/contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from azure.identity import (
    AzureCliCredential,
    CertificateCredential,
    ClientSecretCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)
from tests.azure.running import signed_pair

from farshore.model.errors import Malformed
from farshore.sites.azure.clients import _credential
from farshore.sites.azure.settings import AzureSettings

TENANT, CLIENT = "99999999-2222-3333-4444-555555555555", "77777777-2222-3333-4444-555555555555"
PRINCIPAL = {"tenant": TENANT, "client": CLIENT}


def settings(identity: str, **more: str) -> AzureSettings:
    fields: dict[str, Any] = {"subscription": TENANT, "resource_group": "recovery", "region": "westeurope", **more}
    return AzureSettings.model_validate({**fields, "identity": identity})


@pytest.mark.parametrize(
    ("identity", "more", "kind"),
    [
        ("managed", {}, ManagedIdentityCredential),
        ("managed", {"client": CLIENT}, ManagedIdentityCredential),
        ("cli", {}, AzureCliCredential),
        ("secret", PRINCIPAL, ClientSecretCredential),
        ("certificate", PRINCIPAL, CertificateCredential),
        ("workload", PRINCIPAL, WorkloadIdentityCredential),
    ],
)
def test_each_is_its_own(
    identity: str, more: dict[str, str], kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    secret = signed_pair(tmp_path)[1].read_bytes() if identity == "certificate" else b"of-the-tests\n"
    with _credential(settings(identity, **more), secret, True) as made:  # type: ignore[attr-defined]
        assert isinstance(made, kind)


@pytest.mark.parametrize("identity", ["secret", "certificate", "workload"])
def test_one_without_its_principal_or_secret_is_refused(identity: str) -> None:
    with pytest.raises(Malformed, match="needs tenant and client") as raised:
        _credential(settings(identity), b"x", True)
    assert "--setting tenant" in raised.value.remedy
    if identity != "workload":
        with pytest.raises(Malformed, match="needs the service principal's secret"):
            _credential(settings(identity, **PRINCIPAL), b"", True)


def test_a_certificate_that_is_none_is_named() -> None:
    with pytest.raises(Malformed, match="no certificate with its key") as raised:
        _credential(settings("certificate", **PRINCIPAL), b"-----BEGIN", True)
    assert "RSA" in raised.value.remedy
