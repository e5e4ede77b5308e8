"""First contact: a machine or program without a certificate gets one in exchange for a one-time token.

Whoever gives the token also gives the fingerprint of the authority. The authority's certificate is fetched over a
connection that is not verified, and compared with that fingerprint. Only then is the token sent, over a connection
verified against the authority.
"""

from __future__ import annotations

from pydantic import ValidationError

from farshore.api_types.machines import Authority, Enrolment, EnrolmentRequest
from farshore.api_types.master_targets import MasterTargetEnrolment, MasterTargetEnrolmentRequest
from farshore.api_types.servers import ServerEnrolment, ServerEnrolmentRequest
from farshore.client.credentials import client_context, fingerprint, first_certificate, same_fingerprint
from farshore.client.problems import insecure_request
from farshore.client.roles import Role
from farshore.client.transport import Transport
from farshore.model.errors import Unauthenticated, Unsupported

_SECONDS = 10.0


def pinned_authority(url: str, pin: str) -> str:
    """Return the PEM text of the server's authority, if its fingerprint is ``pin``. Raises Unauthenticated,
    Unreachable."""
    data = insecure_request(f"{url.rstrip('/')}/v1/authority", _SECONDS)
    try:
        certificate = Authority.model_validate_json(data).certificate
    except ValidationError as error:
        raise Unsupported(f"{url} is not a Farshore server.", remedy="Check the address and port.") from error
    if not same_fingerprint(fingerprint(certificate), pin):
        raise Unauthenticated(
            f"The authority of {url} has the fingerprint {fingerprint(certificate)}, not the one given.",
            remedy="Do not enrol. Check the address, or create a new token and use its fingerprint.",
        )
    # Whoever answered may have appended an authority of their own to the one that was pinned.
    return first_certificate(certificate)


def enrol(url: str, pin: str, request: EnrolmentRequest) -> Enrolment:
    """Exchange the token in ``request`` for a certificate. Cannot be repeated: the token is used up."""
    authority = pinned_authority(url, pin)
    with Transport(url, client_context(authority, role=Role.CONFIGURATION_SERVER)) as transport:
        return transport.post("/v1/enrolments", request, Enrolment)


def enrol_process_server(url: str, pin: str, request: ServerEnrolmentRequest) -> ServerEnrolment:
    """Do the same for a process server."""
    authority = pinned_authority(url, pin)
    with Transport(url, client_context(authority, role=Role.CONFIGURATION_SERVER)) as transport:
        return transport.post("/v1/process-servers/enrolments", request, ServerEnrolment)


def enrol_master_target(url: str, pin: str, request: MasterTargetEnrolmentRequest) -> MasterTargetEnrolment:
    """Do the same for a master target."""
    authority = pinned_authority(url, pin)
    with Transport(url, client_context(authority, role=Role.CONFIGURATION_SERVER)) as transport:
        return transport.post("/v1/master-targets/enrolments", request, MasterTargetEnrolment)
