"""Routes for mobility services: epochs, heartbeats and commands, each with the machine's own certificate."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from farshore.api_types.body import LABEL_LENGTH, LARGEST
from farshore.api_types.commands import CommandResult, Commands, CommandStanding
from farshore.api_types.guest_scripts import GuestScriptResult, GuestScripts, GuestScriptStanding
from farshore.api_types.machines import Desired, EpochGrant, EpochKind, EpochRequest, Heartbeat, ReleaseSignature
from farshore.catalog import machines, process_servers
from farshore.catalog.database import Transaction
from farshore.configuration_server.api.parameters import Named
from farshore.configuration_server.command_lines import COMMAND_LINES, MEDIA_TYPE, command_lines
from farshore.configuration_server.web.authenticators import authenticate
from farshore.configuration_server.web.callers import Installation, MachineCaller
from farshore.configuration_server.web.gate import GatedRouter
from farshore.protection.assignment import choose
from farshore.protection.commands import answer as answer_command
from farshore.protection.commands import offered
from farshore.protection.former_agents import former_answer
from farshore.protection.granting import Domain, domain_name, grant
from farshore.protection.heartbeats import observe
from farshore.protection.push.bundle import Bundle, bundle_path, default_cache
from farshore.recovery.checking.agent_scripts import granted as granted_scripts
from farshore.recovery.checking.agent_scripts import note as note_script

router = GatedRouter(prefix="/v1/machines/self", tags=["mobility service"])


@router.post("/epochs", status_code=201)
def open_epoch(request: EpochRequest, machine: MachineCaller, installation: Installation) -> EpochGrant:
    """Request permission to send a new epoch; the holder of an older one is fenced from here on."""
    now = installation.clock.now()
    with installation.catalog.reading() as tx:
        name = domain_name(tx, machines.get(tx, machine))
    # Outside the transaction: the vault's store may be slow.
    domain = Domain(name, installation.vault.domain(name))
    keys = installation.vault.chunk_keys(domain.number)

    def granted(tx: Transaction) -> EpochGrant:
        row = machines.get(tx, machine)
        server = choose(row, process_servers.every(tx), machines.count_by_server(tx), now)
        epoch = grant(tx, row, request, server, now, domain)
        return EpochGrant(
            epoch=epoch.epoch,
            kind=EpochKind(epoch.kind),
            parent_epoch=epoch.parent_epoch,
            parent_sequence=epoch.parent_sequence,
            process_server=server.url,
            hash_key=keys.hash,
        )

    return installation.catalog.write(granted)


@router.post("/heartbeat", response_model=Desired)
async def heartbeat(seen: Heartbeat, machine: MachineCaller, installation: Installation) -> Desired | JSONResponse:
    """Report the agent's state; the answer is the desired state."""

    def noted(tx: Transaction) -> Desired:
        row = machines.get(tx, machine)
        answer = observe(tx, row, seen, installation.clock.now(), installation.settings.heartbeat_every)
        if row.process_server is None:
            return answer
        return answer.model_copy(update={"process_server": process_servers.get(tx, row.process_server).url})

    answer = await asyncio.wrap_future(installation.heartbeats.write(machine, noted))
    return answer if seen.hears_commands else JSONResponse(former_answer(answer))


@router.get("/commands", response_class=StreamingResponse, responses=COMMAND_LINES)
async def commands(
    request: Request,
    machine: MachineCaller,
    installation: Installation,
    run: Annotated[str, Query(max_length=LABEL_LENGTH)],
    epoch: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
    hardware: Annotated[str, Query(max_length=LABEL_LENGTH)] = "",
) -> StreamingResponse:
    """Return the open commands for the machine's agent: a line of JSON with all of them, another line at each change,
    and empty lines in between. The stream is open for half an hour at most; a newer stream of the same machine ends
    it."""

    def offers() -> Commands:
        with installation.catalog.reading() as tx:
            return offered(tx, machines.commanded(tx, machine), run, epoch, hardware)

    def offers_still() -> Commands:
        with installation.catalog.reading() as tx:
            authenticate(installation.authenticators, request, tx)  # the certificate may have been revoked meanwhile
            return offered(tx, machines.commanded(tx, machine), run, epoch, hardware)

    heard = installation.waiting.heard
    first = await run_in_threadpool(offers)
    lines = command_lines(installation.waiting, machine, heard, first, offers_still)
    return StreamingResponse(lines, media_type=MEDIA_TYPE)


@router.put("/commands/{command}/result")
def note_result(
    command: Named, result: CommandResult, machine: MachineCaller, installation: Installation
) -> CommandStanding:
    """Report the result of a command. It may be repeated: the first result counts."""
    now = installation.clock.now()
    return installation.catalog.write(lambda tx: answer_command(tx, machine, command, result, now))


@router.get("/guest-scripts")
def guest_scripts(
    machine: MachineCaller,
    installation: Installation,
    hardware: Annotated[str, Query(max_length=LABEL_LENGTH)],
) -> GuestScripts:
    """Return what the agent of a recovered machine may run as a check; only for the machine with this hardware id."""
    with installation.catalog.reading() as tx:
        return granted_scripts(tx, machine, hardware)


@router.put("/guest-scripts/{script}/result")
def note_script_result(
    script: Named, result: GuestScriptResult, machine: MachineCaller, installation: Installation
) -> GuestScriptStanding:
    """Report the result of such a script. It may be repeated: the first result counts."""
    now = installation.clock.now()
    return installation.catalog.write(lambda tx: note_script(tx, machine, script, result, now))


@router.get("/bundles/{release}/signature")
def signature(release: Named, _machine: MachineCaller, installation: Installation) -> ReleaseSignature:
    """Return the release key's signature of a release: the agent installs nothing without it."""
    bundle = Bundle(release, bundle_path(release, default_cache()))
    return ReleaseSignature(release=release, digest=bundle.digest(), signature=installation.release_key.sign(bundle))


@router.get("/bundles/{release}", response_class=FileResponse)
def bundle(release: Named, _machine: MachineCaller) -> FileResponse:
    """Return a release of the agent, .tar.gz, which was announced with an upgrade."""
    return FileResponse(bundle_path(release, default_cache()), media_type="application/gzip")
