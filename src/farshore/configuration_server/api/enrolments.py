"""Routes for first contact: the authority's certificate, enrolment with a one-time token, renewal, and the tokens
themselves."""

from __future__ import annotations

from farshore import __version__
from farshore.api_types.machines import (
    Authority,
    Enrolment,
    EnrolmentRequest,
    RenewalRequest,
    Token,
    TokenRequest,
    TokenView,
)
from farshore.api_types.servers import ServerStatus
from farshore.catalog import events, machines, tokens
from farshore.catalog.database import Transaction
from farshore.configuration_server.api import views
from farshore.configuration_server.api.parameters import Named
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.web.callers import (
    Installation,
    MachineCaller,
    Operator,
    Reader,
)
from farshore.configuration_server.web.description import OPEN_TO_ALL
from farshore.configuration_server.web.gate import GatedRouter
from farshore.protection.enrolment import create_token, enrol

router = GatedRouter(prefix="/v1", tags=["enrolment"])


@router.get("/status", openapi_extra=OPEN_TO_ALL)
def status(installation: Installation) -> ServerStatus:
    """Return what this server is. Open to all."""
    return ServerStatus(version=__version__, authority_fingerprint=installation.issuer.authority.fingerprint)


@router.get("/authority", openapi_extra=OPEN_TO_ALL)
def authority(installation: Installation) -> Authority:
    """Return the authority's certificate. Open to all; compare its SHA-256 fingerprint with the one that came with a
    token."""
    return Authority(certificate=installation.issuer.authority.certificate)


@router.post("/enrolments", status_code=201, openapi_extra=OPEN_TO_ALL)
def enrolment(request: EnrolmentRequest, installation: Installation) -> Enrolment:
    """Exchange a one-time token for a machine's certificate. Open to all who have a token."""

    def enrolled(tx: Transaction) -> Enrolment:
        row = enrol(tx, request.token, request.description, installation.clock.now())
        signed = installation.issuer.sign(tx, Identity(Kind.MACHINE, row.id), request.request)
        return Enrolment(
            machine=row.id,
            certificate=signed,
            authority=installation.issuer.bundle,
            release_key=installation.release_key.public,
        )

    return installation.catalog.write(enrolled)


@router.post("/machines/self/certificate", status_code=201, response_model_exclude_unset=True)
def renew_machine(request: RenewalRequest, machine: MachineCaller, installation: Installation) -> Enrolment:
    """Issue a new certificate to the calling machine."""

    def renewed(tx: Transaction) -> str:
        holder = Identity(Kind.MACHINE, machines.get(tx, machine).id)
        return installation.issuer.renew(tx, holder, request.request)

    signed = installation.catalog.write(renewed)
    return Enrolment(machine=machine, certificate=signed, authority=installation.issuer.bundle)


@router.post("/enrolment-tokens", status_code=201)
def make_token(request: TokenRequest, user: Operator, installation: Installation) -> Token:
    """Create a one-time token. Its secret is returned here and never again."""
    with installation.catalog.writing() as tx:
        made = create_token(tx, request, user.actor, installation.clock.now())
    return Token(
        token=made.secret,
        authority_fingerprint=installation.issuer.authority.fingerprint,
        expires=made.expires,
        server_url=installation.settings.base_url,
    )


@router.get("/enrolment-tokens")
def list_tokens(_user: Reader, installation: Installation) -> list[TokenView]:
    """Return all tokens, used ones too, without their secrets."""
    with installation.catalog.reading() as tx:
        return [views.token(row) for row in tokens.every(tx)]


@router.delete("/enrolment-tokens/{token}", status_code=204)
def revoke_token(token: Named, user: Operator, installation: Installation) -> None:
    """Revoke a token."""
    with installation.catalog.writing() as tx:
        tokens.revoke(tx, token)
        events.record(
            tx,
            time=installation.clock.now(),
            kind="token.revoked",
            actor=user.actor,
            subject=f"token/{token}",
            message="Enrolment token revoked.",
        )
