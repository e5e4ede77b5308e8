"""Routes for master targets, each with its own certificate."""

from __future__ import annotations

from farshore.api_types.machines import Enrolment, RenewalRequest
from farshore.api_types.master_targets import (
    ErrandClaim,
    ErrandProgress,
    ErrandResult,
    ErrandStanding,
    HomeErrand,
    MasterTargetOrders,
    MasterTargetRegistration,
    MasterTargetReport,
    MasterTargetSettings,
    PlacedDisk,
)
from farshore.api_types.servers import MachineKeys
from farshore.catalog import master_targets
from farshore.catalog.database import Transaction
from farshore.configuration_server.api.parameters import Named
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.web.callers import Installation, MasterTargetCaller
from farshore.configuration_server.web.gate import GatedRouter
from farshore.protection import errands

router = GatedRouter(prefix="/v1/master-targets/self", tags=["master targets"])


@router.post("")
def register_master_target(
    request: MasterTargetRegistration, caller: MasterTargetCaller, installation: Installation
) -> MasterTargetSettings:
    """Register at the start; the answer says where the vault is, and has its upkeep key, which must stay in memory."""
    now = installation.clock.now()

    def registered(tx: Transaction) -> None:
        # One that is removed meanwhile must not return as the one that ``farshore up`` runs.
        installation.issuer.check_holds(tx, Identity(Kind.MASTER_TARGET, caller))
        master_targets.register(tx, caller, request.version, now)

    installation.catalog.write(registered)
    return MasterTargetSettings(vault_url=installation.vault.url, upkeep_key=installation.vault.upkeep_key)


@router.post("/report")
def report_master_target(
    said: MasterTargetReport, caller: MasterTargetCaller, installation: Installation
) -> MasterTargetOrders:
    """Report; the answer lists the errands of the caller, and the records that it may delete."""
    now = installation.clock.now()
    return installation.catalog.write(lambda tx: errands.report(tx, master_targets.get(tx, caller), said, now))


@router.get("/machines/{machine}/keys")
def machine_keys(machine: Named, caller: MasterTargetCaller, installation: Installation) -> MachineKeys:
    """Return the keys of a machine whose disks the caller writes, and of the deduplication domains of its epochs. They
    must stay in memory. ``forbidden``: the caller has no errand for that machine."""
    now = installation.clock.now()
    found = installation.catalog.write(lambda tx: errands.domains(tx, master_targets.get(tx, caller), machine, now))
    # Outside the transaction: the vault's store may be slow.
    return MachineKeys(
        machine=machine,
        key=installation.vault.machine_key(machine),
        chunks=[installation.vault.chunk_keys(domain) for domain in found],
    )


@router.post("/errands/{errand}")
def begin_errand(
    errand: Named, claim: ErrandClaim, caller: MasterTargetCaller, installation: Installation
) -> HomeErrand:
    """Begin an errand that was announced in the answer to a report. The problems ``not-found`` and ``wrong-state`` mean
    that it must not begin."""

    def begun(tx: Transaction) -> HomeErrand:
        row = errands.begin(tx, master_targets.get(tx, caller), errand, claim.run)
        return HomeErrand(
            errand=row.errand,
            failover=row.failover,
            machine=row.machine,
            places=[PlacedDisk.model_validate(one) for one in row.places],
            position=row.position,
        )

    return installation.catalog.write(begun)


@router.post("/errands/{errand}/progress")
def note_errand(
    errand: Named, progress: ErrandProgress, caller: MasterTargetCaller, installation: Installation
) -> ErrandStanding:
    """Report the progress of an errand; the answer says whether it is still wanted."""
    return ErrandStanding(
        wanted=installation.catalog.write(lambda tx: errands.note(tx, master_targets.get(tx, caller), errand, progress))
    )


@router.put("/errands/{errand}/result")
def end_errand(
    errand: Named, result: ErrandResult, caller: MasterTargetCaller, installation: Installation
) -> ErrandStanding:
    """Report the result of an errand. It may be repeated: the first result counts."""
    return ErrandStanding(
        wanted=installation.catalog.write(lambda tx: errands.end(tx, master_targets.get(tx, caller), errand, result))
    )


@router.post("/certificate", status_code=201, response_model_exclude_unset=True)
def renew_master_target(request: RenewalRequest, caller: MasterTargetCaller, installation: Installation) -> Enrolment:
    """Issue a new certificate to the calling master target."""

    def renewed(tx: Transaction) -> str:
        return installation.issuer.renew(tx, Identity(Kind.MASTER_TARGET, caller), request.request)

    return Enrolment(
        machine=caller, certificate=installation.catalog.write(renewed), authority=installation.issuer.bundle
    )
