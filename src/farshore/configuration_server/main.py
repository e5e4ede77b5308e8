"""The configuration server program: serves an installation that ``setup.py`` has made. The only wiring place."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from farshore.catalog.commands import COMMANDS
from farshore.catalog.database import Catalog
from farshore.catalog.upgrade import upgrade
from farshore.clock import SystemClock
from farshore.configuration_server import installation, pauses
from farshore.configuration_server.application import create_application
from farshore.configuration_server.awaited_vault import AwaitedVault
from farshore.configuration_server.discoveries import Discoveries, OpenSourceServers, login_at, sdk
from farshore.configuration_server.forgetting import forget
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.configuration_server.jobs.point import point_job, start_asked
from farshore.configuration_server.jobs.proof import proof_job
from farshore.configuration_server.jobs.push import PushParts, push_job
from farshore.configuration_server.jobs.uninstall import UninstallParts, uninstall_job
from farshore.configuration_server.jobs.upgrade import upgrade_job
from farshore.configuration_server.master_targets import MasterTargets
from farshore.configuration_server.mirroring import Mirroring, conditions_of_owner, look_for_owner, while_owned
from farshore.configuration_server.owning import open_owned
from farshore.configuration_server.periodic import Periodic, Troubles
from farshore.configuration_server.pki.issuing import Issuer
from farshore.configuration_server.reached import agents_servers, own_server
from farshore.configuration_server.sealing import SecretSealer
from farshore.configuration_server.services import Services
from farshore.configuration_server.settings import Settings, home_from_environment, load
from farshore.configuration_server.sites import OpenSites
from farshore.configuration_server.vault_access import noted
from farshore.configuration_server.waiting import LOOK_EVERY as LOOK_FOR_COMMANDS_EVERY
from farshore.configuration_server.waiting import Waiting
from farshore.configuration_server.waiting import look as look_for_commands
from farshore.configuration_server.watching import Watch, prune, tell
from farshore.configuration_server.web.authenticators import ClientCertificate
from farshore.configuration_server.web.limits import RequestLimits
from farshore.configuration_server.web.listening import Connections, DrainingServer, listening, most_connections
from farshore.configuration_server.web.protocol import CertificateProtocol, Contexts, given, server_context
from farshore.delivery.by_upload import upload_by
from farshore.delivery.in_place import InPlaceDelivery
from farshore.delivery.served import ServedDelivery
from farshore.delivery.written import WrittenDelivery
from farshore.export.launch import ExportLauncher
from farshore.model.errors import FarshoreError
from farshore.protection.alerting.telling import Telling
from farshore.protection.clocks import OwnClock
from farshore.protection.installation import Installer, PushTarget, Reporter, SshTarget, TakenOff
from farshore.protection.push.bundle import default_cache
from farshore.protection.scrubbing import Scrubbing
from farshore.protection.silence import SilenceWatch
from farshore.protection.tending import RetentionKept, collect_all, compact_all, rebase_all, thin_all
from farshore.protection.turns import for_indexing, for_rebasing, for_thinning
from farshore.recovery.context import EnrolmentDoor, RecoveryContext
from farshore.recovery.jobs import recovery_jobs
from farshore.recovery.leading_out import LeadingOut
from farshore.recovery.readiness import ReadinessWatch
from farshore.recovery.requests import start_requested
from farshore.recovery.sources import SourceLookout
from farshore.recovery.upkeep import Upkeep
from farshore.sites.port import Way
from farshore.telemetry import logs
from farshore.telemetry.floods import FewEnough
from farshore.vault.upkeep.turns import sweep
from farshore.vault.vault import Vault

if TYPE_CHECKING:
    from farshore.vsphere.session import Login

log = logging.getLogger(__name__)
SHUTDOWN_SECONDS = 10
"""For delays of a busy host; none of our own code blocks. Less than supervisor.STOP_SECONDS."""
LOOK_EVERY = 2.0
LOOK_FOR_OWNER_EVERY = 3.0
MIRROR_EVERY = 1.0
OPEN_EVERY = 5.0
KEEP_UP_EVERY = 5.0
TELL_EVERY = 5.0
FOLLOW_VMWARE_EVERY = 2.0
TRY_TARGETS_EVERY = 60.0
COMPACT_EVERY = 60.0
THIN_EVERY = 3600.0
RETENTION_EVERY = 30.0
COLLECT_EVERY = 24 * 3600.0
PRUNE_EVERY = 3600.0
SCRUB_EVERY = 300.0
SWEEP_EVERY = 3600.0
RENEW_EVERY = 6 * 3600.0
_FEW = FewEnough(60)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; the exit status is that of the error's class."""
    options = _parser().parse_args(arguments)
    os.umask(0o077)
    logs.configure("configuration-server")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    for name in ("uvicorn.error", "asyncio"):  # limits what strangers can write there by invalid requests
        logging.getLogger(name).addFilter(_FEW)
    try:
        serve(load(options.home))
    except FarshoreError as error:
        log.error("%s", error)
        return error.exit_status
    return 0


def serve(settings: Settings) -> None:
    """Serve an installation until SIGTERM or SIGINT."""
    clock = SystemClock()
    catalog = Catalog(settings.catalog)
    upgrade(catalog.engine)
    issuer = Issuer(installation.load_authorities(settings), clock)
    sealer = SecretSealer(installation.load_sealing_key(settings))
    known_vault = noted(settings.home / installation.VAULT_FILE, settings.vault)
    vault = AwaitedVault(
        settings.vault,
        lambda: open_owned(settings, catalog, clock, known=bool(known_vault)),
        known_vault,
    )
    served = ServedDelivery(ExportLauncher())
    recovery = RecoveryContext(
        catalog=catalog,
        clock=clock,
        folder=settings.home / "failovers",
        vault_url=vault.url,
        vault_key=lambda: vault.vault_key,
        site=OpenSites(catalog, sealer, settings.home / "sites"),
        deliveries={
            Way.SERVED: served,
            Way.WRITTEN: InPlaceDelivery(WrittenDelivery(), MasterTargets(catalog, clock)),
        },
        upload=upload_by(served),
        sleep=time.sleep,
        endpoints=lambda server: agents_servers(settings, catalog, server),
        enrolment=lambda: EnrolmentDoor(settings.base_url, issuer.authority.fingerprint, settings.names),
        source_servers=OpenSourceServers(catalog, sealer),
    )
    release_key = installation.release_key(settings)
    install = _installer(lambda name: login_at(catalog, sealer, name))
    push = PushParts(catalog, clock, sealer, lambda: issuer.authority.fingerprint, install, release_key)

    def forgotten(machine: str, actor: str) -> None:
        forget(catalog, recovery, clock, machine, actor)

    jobs = JobEngine(
        settings.jobs,
        [
            point_job(catalog, clock),
            push_job(push),
            proof_job(catalog, clock),
            upgrade_job(catalog, clock, default_cache(), release_key),
            uninstall_job(UninstallParts(catalog, clock, sealer, _remove, forgotten)),
            *recovery_jobs(recovery),
        ],
        installation.executor(settings),
    )
    own = installation.load_server_credentials(settings)
    contexts = Contexts(server_context(issuer.bundle, own.certificate, own.key, settings.tls_ciphers))
    in_use = own

    def renew() -> None:
        nonlocal in_use
        with issuer.replacing:
            renewed = installation.renew_authority(settings, issuer.authority, clock)
            if renewed is not None:
                issuer.authorities = dataclasses.replace(issuer.authorities, signer=renewed)
                log.info("The authority's certificate was renewed. fingerprint=%s", renewed.fingerprint)
            made = installation.renew(settings, catalog, issuer, clock) or in_use
            if made != in_use:
                contexts.use(server_context(issuer.bundle, made.certificate, made.key, settings.tls_ciphers))
                in_use = made
                log.info("The certificate was renewed; new connections are shown the new one.")

    waiting = Waiting()
    catalog.listen(COMMANDS, waiting.wake)
    limits = RequestLimits(catalog, clock)
    authenticators = [ClientCertificate(issuer)]
    readiness = ReadinessWatch(recovery)
    services = Services(
        settings,
        catalog,
        issuer,
        vault,
        jobs,
        sealer,
        clock,
        limits,
        authenticators,
        release_key,
        recovery,
        readiness,
        waiting,
        renew,
    )
    silence = SilenceWatch(clock, settings.give_up_process_server_after)
    own_clock = OwnClock(catalog, clock)
    own_clock.begin()
    watch = Watch(catalog, clock, silence, own_clock)
    watch.begin()
    upkeep = Upkeep(recovery)
    discoveries = Discoveries(catalog, clock, sealer)
    source_lookout = SourceLookout(catalog)
    leading_out = LeadingOut(recovery, lambda: agents_servers(settings, catalog), lambda: own_server(settings))
    scrubbing = Scrubbing(lambda: vault.vault, catalog, clock, settings.scrub_days)
    kept = settings.keep_events_days, settings.keep_events_most
    indexing, thinning = for_indexing(catalog, clock), for_thinning(catalog, clock)
    rebasing = for_rebasing(catalog, clock)
    mirroring = Mirroring(vault, settings, catalog, clock)
    troubles = Troubles(lambda condition: tell(catalog, clock, condition))
    telling = Telling(catalog, clock, settings.base_url, sealer.open)
    work: list[tuple[str, float, Callable[[], None]]] = [
        ("Opening the vault", OPEN_EVERY, vault.look),
        ("Renewing certificates", RENEW_EVERY, renew),
        (
            "The watch",
            LOOK_EVERY,
            lambda: watch.look(
                [
                    *scrubbing.conditions,
                    *upkeep.conditions,
                    *readiness.conditions,
                    *troubles.conditions(),
                    *telling.conditions(),
                    *discoveries.conditions(),
                    *source_lookout.conditions,
                    *conditions_of_owner(vault),
                ]
            ),
        ),
        ("Looking for the vault's owner", LOOK_FOR_OWNER_EVERY, lambda: look_for_owner(vault)),
        ("Keeping the catalog in the vault", MIRROR_EVERY, mirroring.round),
        ("Sending alerts", TELL_EVERY, telling.tell),
        ("Following VMware servers", FOLLOW_VMWARE_EVERY, discoveries.look),
        ("Looking for sources that run", TELL_EVERY, source_lookout.look),
        ("Calling heartbeat URLs", TELL_EVERY, telling.beat),
        ("Looking for commands", LOOK_FOR_COMMANDS_EVERY, lambda: look_for_commands(catalog, waiting)),
        ("Forgetting old events", PRUNE_EVERY, lambda: prune(catalog, clock, *kept)),
        ("Indexing journals", COMPACT_EVERY, while_owned(vault, lambda: compact_all(vault.vault, indexing))),
        ("Rebasing epochs", THIN_EVERY, while_owned(vault, lambda: rebase_all(vault.vault, rebasing))),
        ("Thinning out points", THIN_EVERY, while_owned(vault, lambda: thin_all(vault.vault, catalog, thinning))),
        (
            "Writing the retention to the vault",
            RETENTION_EVERY,
            while_owned(vault, RetentionKept(lambda: vault.vault, catalog).look),
        ),
        (
            "Collecting what nothing needs",
            COLLECT_EVERY,
            while_owned(vault, lambda: collect_all(vault.vault, catalog, thinning)),
        ),
        ("Sweeping the vault", SWEEP_EVERY, while_owned(vault, lambda: _sweep(vault.vault))),
        ("Scrubbing the vault", SCRUB_EVERY, while_owned(vault, scrubbing.step)),
        ("Keeping recovered machines up", KEEP_UP_EVERY, upkeep.look),
        ("Leading recovered machines to their servers", KEEP_UP_EVERY, leading_out.look),
        ("Trying the machines' targets", TRY_TARGETS_EVERY, readiness.look),
    ]
    rounds = [Periodic(name, every, done, troubles) for name, every, done in work]
    server = DrainingServer(
        uvicorn.Config(
            create_application(services),
            http=CertificateProtocol,
            loop="farshore.configuration_server.web.listening:deadline_loop",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ssl_context_factory=given(contexts.first),
            timeout_keep_alive=75,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        ),
        waiting.end,
    )
    listener = listening(settings.listen, settings.port, Connections(most_connections()))
    pauses.keep_short()
    jobs.launch()
    start_requested(jobs, catalog)
    start_asked(jobs, catalog, clock)
    for each in rounds:
        each.start()
    log.info("Serving on %s:%d", settings.listen, settings.port)
    try:
        server.run(sockets=[listener])
    finally:
        scrubbing.stop()
        for each in rounds:
            each.stop()
        discoveries.stop()
        leading_out.close()
        jobs.close()
        catalog.close()
        listener.close()


def _installer(login: Callable[[str], Login]) -> Installer:
    """Return the installer by SSH, or by the guest operations of the VMware server that ``login`` opens by its name."""

    def install(target: PushTarget, report: Reporter) -> str:
        # Imported here: SSH's library takes 0.2 s to load, and the server starts more often than it installs anything.
        from farshore.protection.push.install import PushInstaller

        if target.guest is None:
            return PushInstaller()(target, report)
        with sdk():
            from farshore.protection.push.guest_shell import through_guests
        return PushInstaller(connect=through_guests(login))(target, report)

    return install


def _remove(target: SshTarget, machine: str, report: Reporter) -> TakenOff:
    from farshore.protection.push.removal import PushRemover

    return PushRemover()(target, machine, report)


def _sweep(vault: Vault) -> None:
    removed = sweep(vault)
    if removed:
        log.info("Temporary files of crashed writers were removed from the vault. files=%d", removed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="farshore-configuration-server", description="Serves an installation.")
    home = home_from_environment()
    parser.add_argument("--home", type=Path, default=home, help="folder of the installation (FARSHORE_HOME)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
