"""Signs certificates and notes them in the catalog, in one transaction: what is not noted opens nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from farshore.catalog import users
from farshore.catalog.database import Transaction
from farshore.catalog.tables import CertificateRow
from farshore.configuration_server.clock import utc
from farshore.configuration_server.identity import Identity, Peer
from farshore.configuration_server.pki.authority import Authority, Issued
from farshore.configuration_server.pki.replacement import Authorities
from farshore.model.ports import Clock


class Issuer:
    """Authorities whose every certificate is on record."""

    def __init__(self, authorities: Authorities | Authority, clock: Clock) -> None:
        self.authorities = authorities if isinstance(authorities, Authorities) else Authorities(authorities)
        self.replacing = threading.Lock()
        """Held by whoever changes ``authorities``."""
        self._clock = clock
        self._marks: dict[Identity, str] = {}

    @property
    def authority(self) -> Authority:
        """The one that signs."""
        return self.authorities.signer

    @property
    def bundle(self) -> str:
        """Whom everybody is to trust (PEM texts); given with each certificate."""
        return self.authorities.bundle

    def note(self, peer: Peer) -> None:
        """Take down which bundle came with the certificate that somebody has just shown."""
        self._marks[peer.identity] = peer.mark

    def has_followed(self, holder: Identity) -> bool:
        """Whether the last certificate that ``holder`` showed to this process came with the present bundle."""
        return self._marks.get(holder) == self.authorities.mark

    def sign(self, tx: Transaction, holder: Identity, request: str, names: Sequence[str] = ()) -> str:
        """A certificate (PEM) for the key of a PEM PKCS#10 request. Raises Malformed."""
        return self._note(
            tx,
            holder,
            self.authority.sign_request(request, holder, utc(self._clock), names, mark=self.authorities.mark),
        )

    def issue(self, tx: Transaction, holder: Identity, names: Sequence[str] = ()) -> tuple[str, str]:
        """A certificate with a new key, both PEM."""
        issued, key = self.authority.issue(holder, utc(self._clock), names, mark=self.authorities.mark)
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
