"""The pin of an enrolment: only the certificate that it names is trusted, whatever else comes with it."""

from __future__ import annotations

import datetime

import pytest

from farshore.api_types.machines import Authority as Answer
from farshore.client import enrolment
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
