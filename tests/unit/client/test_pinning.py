"""The pin of an enrolment: only the certificate that it names is trusted, whatever else comes with it."""

from __future__ import annotations

import datetime
import json
import ssl

import pytest

from farshore.api_types.machines import Authority as Answer
from farshore.client import enrolment
from farshore.client.credentials import client_context
from farshore.client.enrolment import pinned_authority
from farshore.configuration_server.pki.authority import Authority
from farshore.model.errors import Unauthenticated

NOW = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)


def test_an_authority_behind_the_pinned_one_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, intruders = Authority.create("ours", NOW), Authority.create("an intruder's", NOW)
    told = Answer(certificate=ours.certificate + intruders.certificate)
    monkeypatch.setattr(enrolment, "insecure_request", lambda *_: told.model_dump_json().encode())
    assert pinned_authority("https://x", ours.fingerprint) == ours.certificate
    told = Answer(certificate=intruders.certificate + ours.certificate)
    with pytest.raises(Unauthenticated, match="fingerprint"):
        pinned_authority("https://x", ours.fingerprint)


def test_what_is_hashed_is_what_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL passes over a first line that we took for a certificate's, and loads the certificate behind it."""
    now = datetime.datetime.now(datetime.UTC)
    evil = Authority.create("Farshore authority", now)
    true = Authority.create("Farshore authority", now)
    while "=" not in true.certificate.replace("-----", ""):
        true = Authority.create("Farshore authority", now)
    body = "".join(line for line in true.certificate.splitlines() if "-----" not in line)
    forged = f"-----BEGIN CERTIFICATE-----:\n{body}\n{evil.certificate}"
    loaded = client_context(forged).get_ca_certs(binary_form=True)
    assert loaded == [ssl.PEM_cert_to_DER_cert(evil.certificate)], "the control: that is what OpenSSL makes of it"
    monkeypatch.setattr(enrolment, "insecure_request", lambda *_: json.dumps({"certificate": forged}).encode())
    with pytest.raises(Unauthenticated):
        enrolment.pinned_authority("https://x", true.fingerprint)
    certificate = true.certificate
    monkeypatch.setattr(enrolment, "insecure_request", lambda *_: json.dumps({"certificate": certificate}).encode())
    assert client_context(enrolment.pinned_authority("https://x", true.fingerprint)).get_ca_certs(binary_form=True) == [
        ssl.PEM_cert_to_DER_cert(certificate)
    ]
