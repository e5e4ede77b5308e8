"""Routes for the trusted authorities, and for replacing one by another."""

from __future__ import annotations

from farshore.api_types.authority import Phase, Replacement, ReplacementRequest
from farshore.api_types.machines import Authority
from farshore.catalog import events, machines, master_targets, process_servers, users
from farshore.catalog.change_details import changed
from farshore.catalog.database import Transaction
from farshore.client.credentials import fingerprints
from farshore.clock import utc
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.pki import replacement
from farshore.configuration_server.services import Services
from farshore.configuration_server.web.callers import Contributor, Installation, Reader
from farshore.configuration_server.web.description import OPEN_TO_ALL
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.errors import WrongState

router = GatedRouter(prefix="/v1", tags=["authority"])
_MOST_NAMED = 5


@router.get("/authorities", openapi_extra=OPEN_TO_ALL)
def authorities(installation: Installation) -> Authority:
    """Return the certificates of all authorities that are trusted now. Open to all. Do not trust them because of this
    answer alone: a client that knows others renews its certificate, and gets the new ones with that."""
    return Authority(certificate=installation.issuer.authorities.bundle)


@router.get("/authority/replacement")
def show_replacement(_user: Reader, installation: Installation) -> Replacement:
    """Return the state of the authority's replacement, and who has not followed yet."""
    with installation.catalog.reading() as tx:
        return _shown(tx, installation)


@router.post("/authority/replacement")
def continue_replacement(request: ReplacementRequest, user: Contributor, installation: Installation) -> Replacement:
    """Do the next step: make a second authority, let it sign, or trust the first one no longer."""
    issuer, folder = installation.issuer, installation.settings.pki
    with issuer.replacing:
        present = issuer.authorities
        if present.phase is not request.phase:
            raise WrongState(
                f"The replacement is {present.phase.value}, not {request.phase.value}: another user has continued it.",
                remedy="Check it with `farshore authority show`, then decide.",
            )
        with installation.catalog.writing() as tx:
            waiting = _shown(tx, installation).waiting
            if waiting and present.phase is not Phase.SETTLED and not request.leave_behind:
                named = ", ".join(waiting[:_MOST_NAMED]) + (" …" if len(waiting) > _MOST_NAMED else "")
                raise WrongState(
                    f"This step would shut out {len(waiting)}: {named}.",
                    remedy="Wait: machines and process servers switch by themselves within seconds. Users need "
                    "`farshore user renew`, for each of their credentials files. With --leave-behind "
                    "those that have not switched must enrol again.",
                )
            events.record(
                tx,
                time=installation.clock.now(),
                kind=f"authority.{_DONE[present.phase]}",
                actor=user.actor,
                subject="authority",
                message=f"The replacement of the authority went on from {present.phase.value}.",
                detail=changed({"phase": present.phase.value}, {"phase": _DONE[present.phase]}),
            )
        if present.phase is Phase.SETTLED:
            issuer.authorities = replacement.introduce(folder, present, utc(installation.clock))
        elif present.phase is Phase.INTRODUCED:
            issuer.authorities = replacement.switch(folder, present)
        else:
            issuer.authorities = replacement.finish(folder, present)
    installation.renew()
    with installation.catalog.reading() as tx:
        return _shown(tx, installation)


_DONE = {Phase.SETTLED: "introduced", Phase.INTRODUCED: "switched", Phase.SWITCHED: "settled"}


def _shown(tx: Transaction, installation: Services) -> Replacement:
    issuer = installation.issuer
    holders = {
        **{Identity(Kind.MACHINE, row.id): row.name for row in machines.every(tx)},
        **{Identity(Kind.PROCESS_SERVER, row.id): row.name for row in process_servers.every(tx)},
        **{Identity(Kind.MASTER_TARGET, row.id): row.name for row in master_targets.every(tx) if row.registered},
        **{Identity(Kind.USER, row.name): row.name for row in users.every(tx)},
    }
    now = installation.clock.now()
    waiting = []
    for kind in (Kind.MACHINE, Kind.PROCESS_SERVER, Kind.MASTER_TARGET, Kind.USER):
        names = {identity.name: name for identity, name in holders.items() if identity.kind is kind}
        good = users.good_serials(tx, kind.value, list(names), now)
        for subject, serials in good.items():
            holder = Identity(kind, subject)
            if serials and not issuer.has_followed(holder, serials):
                waiting.append(f"{kind.value} {names[subject]}")
            elif kind is Kind.USER and issuer.uses_older(holder, serials):
                waiting.append(f"{kind.value} {names[subject]} (an older credentials file is in use too)")
    trusted = issuer.authorities
    return Replacement(phase=trusted.phase, trusted=fingerprints(trusted.bundle), waiting=sorted(waiting))
