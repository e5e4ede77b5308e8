"""Routes for process servers that bring the mobility service to machines at their site."""

from __future__ import annotations

from fastapi.responses import FileResponse

from farshore.api_types.pushes import AgentRelease, PushClaim, PushProgress, PushResult, PushStanding, SealedPush
from farshore.catalog import process_servers
from farshore.catalog.database import Transaction
from farshore.catalog.tables import PushRow
from farshore.configuration_server.api.parameters import Named
from farshore.configuration_server.jobs.pushing_through import token_sealed_as
from farshore.configuration_server.push_logins import KeptLogin, Logins
from farshore.configuration_server.web.callers import Installation, ProcessServerCaller
from farshore.configuration_server.web.gate import GatedRouter
from farshore.protection import pushes
from farshore.protection.installation import PushTarget
from farshore.protection.push.bundle import bundle_path, default_cache
from farshore.protection.push.sealed_target import seal

router = GatedRouter(prefix="/v1/process-servers/self", tags=["process servers"])


@router.post("/pushes/{push}")
def begin_push(push: Named, claim: PushClaim, server: ProcessServerCaller, installation: Installation) -> SealedPush:
    """Begin a push that was announced in the answer to a report: return where and how to log in, sealed to the caller's
    key. The problems ``not-found`` and ``wrong-state`` mean that it must not begin."""
    logins = Logins(installation.catalog, installation.clock, installation.sealer)

    def begun(tx: Transaction) -> tuple[PushRow, KeptLogin]:
        at = process_servers.get(tx, server)
        row = pushes.begin(tx, at, push, claim.run, installation.clock.now())
        return row, logins.kept(tx, row.secret, row.login)

    row, kept = installation.catalog.write(begun)
    target = PushTarget(
        **vars(logins.target(row.secret, row.login, kept)),
        token=installation.sealer.open(token_sealed_as(push), row.token_secret).decode(),
        server_url=row.login["server_url"],
        authority_fingerprint=installation.issuer.authority.fingerprint,
        release_key=installation.release_key.public,
        disks=tuple(row.login["disks"]),
    )
    return SealedPush(sealed=seal(target, push, bytes.fromhex(claim.key)).hex())


@router.post("/pushes/{push}/progress")
def note_push(
    push: Named, progress: PushProgress, server: ProcessServerCaller, installation: Installation
) -> PushStanding:
    """Report the progress of a push; the answer says whether it is still wanted."""
    return PushStanding(
        wanted=installation.catalog.write(lambda tx: pushes.note(tx, process_servers.get(tx, server), push, progress))
    )


@router.put("/pushes/{push}/result")
def end_push(push: Named, result: PushResult, server: ProcessServerCaller, installation: Installation) -> PushStanding:
    """Report the result of a push. It may be repeated: the first result counts."""
    return PushStanding(
        wanted=installation.catalog.write(lambda tx: pushes.end(tx, process_servers.get(tx, server), push, result))
    )


@router.get("/agents/{python}")
def agent_release(python: Named, _server: ProcessServerCaller, installation: Installation) -> AgentRelease:
    """Return the release of the agent for machines with that Python ("3.11"). The problem ``try-later`` with a time to
    wait means that it is being built."""
    return installation.agent_releases.offer(python)


@router.get("/bundles/{release}", response_class=FileResponse)
def agent_bundle(release: Named, _server: ProcessServerCaller) -> FileResponse:
    """Return a release of the agent, .tar.gz."""
    return FileResponse(bundle_path(release, default_cache()), media_type="application/gzip")
