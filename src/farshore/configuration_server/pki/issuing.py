"""Sign certificates and record them in the catalog, in one transaction: an unrecorded certificate opens nothing."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import NamedTuple

from farshore.catalog import users
from farshore.catalog.database import Transaction
from farshore.catalog.tables import CertificateRow
from farshore.clock import utc
from farshore.configuration_server.identity import Identity, Peer
from farshore.configuration_server.pki.authority import Authority, SignedCertificate
from farshore.configuration_server.pki.replacement import Authorities
from farshore.model.errors import Unauthenticated
from farshore.model.ports import Clock


class _Shown(NamedTuple):
    """A certificate that was shown: the mark of its bundle, and its first and last use, counted."""

    mark: str
    first: int
    last: int


class Issuer:
    """Authorities whose every certificate is on record."""

    def __init__(self, authorities: Authorities | Authority, clock: Clock) -> None:
        self.authorities = authorities if isinstance(authorities, Authorities) else Authorities(authorities)
        self.replacing = threading.Lock()
        """Held by a thread that changes ``authorities``."""
        self._clock = clock
        self._shown: dict[Identity, dict[str, _Shown]] = {}
        """By serial number: what was shown to this process."""
        self._number = 0
        self._lock = threading.Lock()

    @property
    def authority(self) -> Authority:
        """The signing authority."""
        return self.authorities.signer

    @property
    def bundle(self) -> str:
        """The authorities that every client must trust (PEM texts); returned with each certificate."""
        return self.authorities.bundle

    def note(self, peer: Peer) -> None:
        """Note which bundle came with a certificate that was just shown."""
        with self._lock:
            self._number += 1
            held = self._shown.setdefault(peer.identity, {})
            first = held[peer.serial].first if peer.serial in held else self._number
            held[peer.serial] = _Shown(peer.mark, first, self._number)

    def has_followed(self, holder: Identity, good: Collection[str]) -> bool:
        """Return whether ``holder`` has shown one of the certificates ``good`` (serial numbers) that came with the
        present bundle."""
        return bool(self._present(holder, good))

    def uses_older(self, holder: Identity, good: Collection[str]) -> bool:
        """Return whether an older certificate was shown since ``holder`` began to use the newest one: then a second
        credentials file, or a copy of the renewed one, is in use elsewhere."""
        present = self._present(holder, good)
        with self._lock:
            older = [
                one for serial, one in self._shown.get(holder, {}).items() if serial in good and serial not in present
            ]
        return any(one.last > max((new.first for new in present.values()), default=0) for one in older)

    def _present(self, holder: Identity, good: Collection[str]) -> dict[str, _Shown]:
        mark = self.authorities.mark
        with self._lock:
            held = self._shown.get(holder, {})
            return {serial: one for serial, one in held.items() if serial in good and one.mark == mark}

    def sign(self, tx: Transaction, holder: Identity, request: str, names: Sequence[str] = ()) -> str:
        """Return a certificate (PEM) for the key of a PEM PKCS#10 request. Raises Malformed."""
        return self._note(
            tx,
            holder,
            self.authority.sign_request(request, holder, utc(self._clock), names, mark=self.authorities.mark),
        )

    def renew(self, tx: Transaction, holder: Identity, request: str, names: Sequence[str] = ()) -> str:
        """Renew the certificate of a caller that shows one. Raises Unauthenticated, too, as ``check_holds``."""
        self.check_holds(tx, holder)
        return self.sign(tx, holder, request, names)

    def check_holds(self, tx: Transaction, holder: Identity) -> None:
        """Raise Unauthenticated if all certificates of the caller were revoked. This may have happened since the call
        began, because its body takes time."""
        if not users.newest_expiry(tx, holder.kind.value, holder.name):
            raise Unauthenticated(
                f"{holder.actor} was revoked during this call.", remedy="Enrol again, with a new token."
            )

    def issue(self, tx: Transaction, holder: Identity, names: Sequence[str] = ()) -> tuple[str, str]:
        """Return a certificate with a new key, both PEM."""
        issued, key = self.authority.issue(holder, utc(self._clock), names, mark=self.authorities.mark)
        return self._note(tx, holder, issued), key

    def _note(self, tx: Transaction, holder: Identity, issued: SignedCertificate) -> str:
        row = CertificateRow(
            serial=issued.serial,
            kind=holder.kind.value,
            subject=holder.name,
            issued=issued.issued,
            expires=issued.expires,
        )
        users.record_certificate(tx, row)
        return issued.certificate
