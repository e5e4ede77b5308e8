"""The certificate authority: what it signs, and what it takes over from a request."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.verification import PolicyBuilder, Store
from tests.unit.configuration_server.offices import MovableClock, shown, signing_request

from farshore.client.credentials import client_context, fingerprint
from farshore.configuration_server.identity import Identity, Kind, peer_from_certificate
from farshore.configuration_server.installation import _ensure_authority, load_authority, renew_authority
from farshore.configuration_server.pki.authority import Authority
from farshore.configuration_server.settings import Settings
from farshore.configuration_server.web.protocol import server_context
from farshore.model.errors import Malformed, Unauthenticated

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
MACHINE = Identity(Kind.MACHINE, "11111111-1111-4111-8111-111111111111")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("test", NOW)


def load(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def test_a_server_certificate_is_good_for_its_names_and_no_other(authority: Authority) -> None:
    issued, _ = authority.issue(Identity(Kind.SERVER, "s1"), NOW, ["dr.example.com", "10.0.2.2", "::1"])
    store = Store([load(authority.certificate)])

    def verify(name: x509.DNSName | x509.IPAddress) -> None:
        PolicyBuilder().store(store).time(NOW).build_server_verifier(name).verify(load(issued.certificate), [])

    verify(x509.DNSName("dr.example.com"))
    verify(x509.IPAddress(ipaddress.ip_address("10.0.2.2")))
    with pytest.raises(x509.verification.VerificationError):
        verify(x509.DNSName("other.example.com"))


def test_only_the_key_of_a_request_is_taken_over(authority: Authority) -> None:
    issued = authority.sign_request(signing_request("farshore://user/admin"), MACHINE, NOW)
    peer = peer_from_certificate(shown(issued.certificate))
    assert (peer.identity, peer.serial) == (MACHINE, issued.serial)
    usages = load(issued.certificate).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert x509.oid.ExtendedKeyUsageOID.SERVER_AUTH not in usages
    assert not load(issued.certificate).extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize(
    "key",
    [rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP192R1())],
    ids=["RSA 1024", "P-192"],
)
def test_a_weak_key_is_refused(authority: Authority, key: object) -> None:
    with pytest.raises(Malformed, match="too weak"):
        authority.sign_request(signing_request(key=key), MACHINE, NOW)


def test_rsa_2048_is_taken(authority: Authority) -> None:
    authority.sign_request(signing_request(key=rsa.generate_private_key(65537, 2048)), MACHINE, NOW)


def test_an_altered_request_is_refused(authority: Authority) -> None:
    lines = signing_request().splitlines()
    lines[2] = lines[2][:20] + ("A" if lines[2][20] != "A" else "B") + lines[2][21:]
    with pytest.raises(Malformed):
        authority.sign_request("\n".join(lines), MACHINE, NOW)
    with pytest.raises(Malformed):
        authority.sign_request("not a request", MACHINE, NOW)


def test_a_certificate_never_outlives_its_authority(authority: Authority) -> None:
    issued, _ = authority.issue(MACHINE, NOW, days=100_000)
    assert load(issued.certificate).not_valid_after_utc == load(authority.certificate).not_valid_after_utc


def test_the_authority_is_read_back_whole(authority: Authority) -> None:
    read = Authority.from_pem(authority.certificate, authority.key)
    assert read.fingerprint == authority.fingerprint == fingerprint(authority.certificate)
    with pytest.raises(Malformed, match="does not belong"):
        Authority.from_pem(authority.certificate, Authority.create("other", NOW).key)


@pytest.mark.parametrize(
    "names",
    [
        (),
        (("URI", "farshore://robot/x"),),
        (("URI", "farshore://user/a/b"),),
        (("URI", "https://user/admin"),),
        (("DNS", "farshore://user/admin"),),
        (("URI", "farshore://user/admin"), ("URI", "farshore://machine/x")),
    ],
)
def test_a_certificate_that_names_nobody_or_several_is_nobodys(names: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(Unauthenticated):
        peer_from_certificate({"subjectAltName": names, "serialNumber": "01"})


@pytest.mark.parametrize("back", [datetime.timedelta(days=9), datetime.timedelta(days=20_000)])
def test_a_certificate_is_good_by_a_clock_that_went_back(authority: Authority, back: datetime.timedelta) -> None:
    issued, _ = authority.issue(Identity(Kind.SERVER, "s1"), NOW, ["dr.example.com"])
    clock = NOW - back
    verifier = PolicyBuilder().store(Store([load(authority.certificate)])).time(clock)
    verifier.build_server_verifier(x509.DNSName("dr.example.com")).verify(load(issued.certificate), [])


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """TLS between two contexts, without a socket."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(down, up, server_hostname=name), server.wrap_bio(up, down, server_side=True)]
    waiting = list(sides)
    for _ in range(10):
        for side in list(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                waiting.remove(side)
        if not waiting:
            return
    raise AssertionError("the handshake does not end")


def test_a_renewed_authority_is_trusted_by_those_who_hold_either_certificate() -> None:
    """It just ended, and everything with it."""
    now = datetime.datetime.now(datetime.UTC)
    old = Authority.create("test", now - datetime.timedelta(days=3000))
    new = old.renewed(now)
    assert new.ends - old.ends == datetime.timedelta(days=3000)
    assert new.fingerprint != old.fingerprint
    for signer in (old, new):
        server_certificate, server_key = signer.issue(Identity(Kind.SERVER, "s"), now, ["dr.example.com"])
        agent_certificate, agent_key = signer.issue(MACHINE, now)
        for theirs in (old, new):
            client = client_context(theirs.certificate, agent_certificate.certificate, agent_key)
            server = server_context(theirs.certificate, server_certificate.certificate, server_key, "ECDHE+AESGCM")
            handshake(server, client, "dr.example.com")


def test_the_authority_is_renewed_in_time_and_once(tmp_path: Path) -> None:
    clock = MovableClock()
    settings = Settings(home=tmp_path)
    settings.pki.mkdir()
    _ensure_authority(settings, clock)
    first = load_authority(settings)
    assert renew_authority(settings, first, clock) is None
    clock.time += 2860 * 86400 * 10**9  # 3650 - 2 * 397 = 2856 days
    renewed = renew_authority(settings, first, clock)
    assert renewed is not None
    assert load_authority(settings).fingerprint == renewed.fingerprint != first.fingerprint
    assert renew_authority(settings, renewed, clock) is None
