"""Replaces the authority's key while everything runs, in three steps. Files alone hold the state.

settled
    One authority signs and is trusted.
introduced
    A second one exists, with its own key. Every holder gets both certificates with a renewal; the first signs.
switched
    The second signs, and renews what the first had signed. Both are trusted.

The next step drops the first one, and the state is settled again. Each step waits until every holder that must follow
has shown a certificate that was issued after the previous step. Every certificate contains a mark of the bundle that
came with it, so the certificate itself shows this.

Files beside ``authority.pem``: ``authority-next.pem`` (introduced), ``authority-former.pem`` (switched; no key).
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from farshore.api_types.authority import Phase
from farshore.client.credentials import read_private, write_private
from farshore.configuration_server.pki.authority import Authority
from farshore.model.errors import WrongState

SIGNER, NEXT, FORMER = "authority.pem", "authority-next.pem", "authority-former.pem"
_MARK_DIGITS = 32


@dataclass(frozen=True)
class Authorities:
    """``signer`` signs. ``next`` is already trusted, ``former`` (PEM) is still trusted."""

    signer: Authority
    next: Authority | None = None
    former: str = ""

    @property
    def phase(self) -> Phase:
        """The phase of a replacement."""
        if self.next is not None:
            return Phase.INTRODUCED
        return Phase.SWITCHED if self.former else Phase.SETTLED

    @property
    def bundle(self) -> str:
        """All trusted authorities, as PEM texts, the signer first."""
        others = [self.next.certificate if self.next is not None else "", self.former]
        return self.signer.certificate + "".join(one for one in others if one != self.signer.certificate)

    @property
    def mark(self) -> str:
        """Identifies this bundle in the certificates that are issued with it."""
        return hashlib.sha256(self.bundle.encode()).hexdigest()[:_MARK_DIGITS]


def load(folder: Path) -> Authorities:
    """Return the authorities in a folder. Raises NotFound, Refused, Malformed."""
    signer = _load(folder / SIGNER)
    if (folder / NEXT).exists():
        return Authorities(signer, next=_load(folder / NEXT))
    former = folder / FORMER
    text = read_private(former).decode() if former.exists() else ""
    # An interrupted step leaves the signer's own certificate there: nothing has been switched yet.
    return Authorities(signer, former="" if text == signer.certificate else text)


def save(path: Path, authority: Authority) -> None:
    """Write an authority to one file, so that certificate and key appear together or not at all."""
    write_private(path, (authority.certificate + authority.key).encode())


def introduce(folder: Path, present: Authorities, now: datetime.datetime) -> Authorities:
    """Create the next authority. Raises WrongState."""
    _expect(present, Phase.SETTLED)
    made = Authority.create(f"Farshore authority {secrets.token_hex(4)}", now)
    save(folder / NEXT, made)
    return dataclasses.replace(present, next=made)


def switch(folder: Path, present: Authorities) -> Authorities:
    """Let the next authority sign. The former key is deleted. Raises WrongState."""
    _expect(present, Phase.INTRODUCED)
    assert present.next is not None
    write_private(folder / FORMER, present.signer.certificate.encode())
    (folder / NEXT).replace(folder / SIGNER)
    return Authorities(present.next, former=present.signer.certificate)


def finish(folder: Path, present: Authorities) -> Authorities:
    """Stop trusting the former authority. Raises WrongState."""
    _expect(present, Phase.SWITCHED)
    (folder / FORMER).unlink(missing_ok=True)
    return Authorities(present.signer)


def _load(path: Path) -> Authority:
    text = read_private(path).decode()
    return Authority.from_pem(text, text)


def _expect(present: Authorities, phase: Phase) -> None:
    if present.phase is not phase:
        raise WrongState(
            f"The replacement of the authority is {present.phase.value}, not {phase.value}.",
            remedy="See `farshore authority show`.",
        )
