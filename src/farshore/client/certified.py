"""What every program with a certificate of its own asks of the configuration server."""

from __future__ import annotations

from farshore.api_types.machines import Authority
from farshore.client.credentials import Credentials
from farshore.client.transport import Transport


class CertifiedClient:
    """The calls that machines, process servers and master targets have in common."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def use(self, credentials: Credentials) -> None:
        """Present a renewed certificate from now on."""
        self._transport.renew(credentials)

    @property
    def announced(self) -> str:
        """Changes when an answer says that the server trusts other authorities; empty until an answer has said so."""
        return self._transport.authorities

    def authorities(self) -> str:
        """Return the certificates of all authorities that are trusted now, as PEM texts. Only for comparison with those
        that came with the certificate: other authorities are only accepted with a new certificate. Raises NotFound if
        the server is of an older release."""
        return self._transport.get("/v1/authorities", Authority).certificate

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()
