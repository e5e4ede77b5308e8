"""Signs certificates and notes them in the catalog, in one transaction: what is not noted opens nothing."""

from __future__ import annotations

from collections.abc import Sequence

from farshore.catalog import users
from farshore.catalog.database import Transaction
from farshore.catalog.tables import CertificateRow
from farshore.configuration_server.clock import utc
from farshore.configuration_server.identity import Identity
from farshore.configuration_server.pki.authority import Authority, Issued
from farshore.model.ports import Clock


class Issuer:
    """An authority whose every certificate is on record."""

    def __init__(self, authority: Authority, clock: Clock) -> None:
        self.authority = authority
        self._clock = clock

    def sign(self, tx: Transaction, holder: Identity, request: str, names: Sequence[str] = ()) -> str:
        """A certificate (PEM) for the key of a PEM PKCS#10 request. Raises Malformed."""
        return self._note(tx, holder, self.authority.sign_request(request, holder, utc(self._clock), names))

    def issue(self, tx: Transaction, holder: Identity, names: Sequence[str] = ()) -> tuple[str, str]:
        """A certificate with a new key, both PEM."""
        issued, key = self.authority.issue(holder, utc(self._clock), names)
        return self._note(tx, holder, issued), key

    def _note(self, tx: Transaction, holder: Identity, issued: Issued) -> str:
        row = CertificateRow(
            serial=issued.serial,
            kind=holder.kind.value,
            subject=holder.name,
            issued=issued.issued,
            expires=issued.expires,
        )
        users.record_certificate(tx, row)
        return issued.certificate
