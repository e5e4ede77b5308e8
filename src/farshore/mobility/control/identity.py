"""The machine's identity: its key, which is created here and never leaves, and the certificate obtained with a
token."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from farshore.api_types.machines import Description, Enrolment, EnrolmentRequest
from farshore.client.credentials import Credentials
from farshore.client.enrolment import enrol
from farshore.client.key_request import new_key_and_request
from farshore.mobility.settings import Settings
from farshore.mobility.upgrade.trust import pin as pin_release_key
from farshore.model.errors import Malformed, NoSpace
from farshore.model.identifiers import MachineId

_SCHEME = "farshore://machine/"


def enrol_machine(settings: Settings, url: str, pin: str, token: str, description: Description) -> MachineId:
    """Obtain a certificate with ``token`` and store it. Raises Unauthenticated, Unreachable …"""
    key, request = new_key_and_request(description.hostname)
    made = enrol(url, pin, EnrolmentRequest(token=token, request=request, description=description))
    keep(settings.credentials, url, made, key)
    if made.release_key:
        pin_release_key(settings.release_key, made.release_key)
    return MachineId(made.machine)


def machine_of(credentials: Credentials) -> MachineId:
    """Return the machine that the certificate names. Raises Malformed."""
    try:
        certificate = x509.load_pem_x509_certificate(credentials.certificate.encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise Malformed(
            "This is not the certificate of a machine.", remedy="Enrol this machine with a token."
        ) from error
    for name in names.get_values_for_type(x509.UniformResourceIdentifier):
        if name.startswith(_SCHEME):
            return MachineId(name[len(_SCHEME) :])
    raise Malformed("The certificate is not that of a machine.", remedy="Enrol this machine with a token.")


def keep(path: Path, url: str, made: Enrolment, key: str) -> None:
    """Store the result of an enrolment or renewal, with its key. Raises NoSpace."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        Credentials(url, made.authority, made.certificate, key).save(path)
    except OSError as error:
        raise NoSpace(
            f"{path} cannot be written ({error.strerror}).",
            remedy="Check the disk that it is on (dmesg, df, mount).",
        ) from error
