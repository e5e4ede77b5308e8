"""Routes for protected machines, as users see and manage them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Query, Response
from pydantic import TypeAdapter

from farshore.api_types.body import LABEL_LENGTH
from farshore.api_types.commands import ResyncArguments
from farshore.api_types.jobs import Job
from farshore.api_types.machines import (
    Finding,
    Machine,
    MachineAddition,
    MachineSummary,
    ProofRequest,
    ProtectionRequest,
    Uninstallation,
    VmwareGuest,
)
from farshore.catalog import (
    commands,
    epochs,
    events,
    failovers,
    machines,
    policies,
    process_servers,
    users,
    vmware,
)
from farshore.catalog.change_details import changed, fields_of, in_words
from farshore.catalog.database import Transaction
from farshore.catalog.tables import MachineRow
from farshore.configuration_server.api import views
from farshore.configuration_server.api.parameters import Named, Wanted
from farshore.configuration_server.forgetting import check_forgettable, forget, refuse_elsewhere
from farshore.configuration_server.identity import Identity, Kind
from farshore.configuration_server.jobs.proof import PROOF
from farshore.configuration_server.jobs.push import PUSH
from farshore.configuration_server.jobs.uninstall import UNINSTALL
from farshore.configuration_server.jobs.upgrade import UPGRADE
from farshore.configuration_server.push_logins import seal_login
from farshore.configuration_server.services import Services
from farshore.configuration_server.web.callers import Contributor, Installation, Operator, Reader
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.errors import Malformed, NotFound, Refused, WrongState
from farshore.model.identifiers import MachineId, new_id
from farshore.model.machine import refuse_too_many
from farshore.model.policy import deduplication_domain
from farshore.model.states import MachineState
from farshore.protection.checks import check_machine
from farshore.protection.commands import ask
from farshore.protection.granting import ELSEWHERE, fence
from farshore.protection.pushes import check_present
from farshore.protection.watch import DAMAGE, DAMAGE_OLDER

router = GatedRouter(prefix="/v1/machines", tags=["machines"])
PAGE = 100
PROTECTION = (
    "policy",
    "exclude_disks",
    "bandwidth_limit",
    "cpu_percent",
    "memory_limit",
    "proof_pace",
    "chosen_server",
    "protect",
    "state",
)
"""How an event names a change of a machine's protection."""
"""Maximum machines in one answer: building them must not delay other requests."""
LINES = 1000
"""The same for a list with one line for each machine, which costs a tenth of that."""
_MACHINES = TypeAdapter(list[Machine])
_SUMMARIES = TypeAdapter(list[MachineSummary])
summaries = GatedRouter(prefix="/v1/machine-summaries", tags=["machines"])


@router.get("", response_model=list[Machine])
def list_machines(
    _user: Reader,
    installation: Installation,
    after: Annotated[str, Query(max_length=LABEL_LENGTH)] = "",
    limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE,
    state: MachineState | None = None,
    policy: Wanted = None,
    process_server: Wanted = None,
) -> Response:
    """Return machines by name, at most ``limit``: for the rest, ask again with the last name as ``after``. ``state``,
    ``policy`` and ``process_server`` (name or id) filter the list."""
    now = installation.clock.now()
    with installation.catalog.reading() as tx:
        rows = machines.page(tx, _wanted(tx, after, state, policy, process_server), limit)
        servers, damage, waiting = process_servers.every(tx), _damage(tx, rows), _in_other_domain(tx, rows)
        chosen = policies.targets_away(tx)
        found = [
            views.machine(
                row,
                now,
                servers,
                [*waiting.get(row.id, []), *damage.get(row.id, [])],
                installation.readiness.of(row, chosen[row.policy]),
            )
            for row in rows
        ]
    # Built from validated parts a line above: to validate them again would take as long again.
    return Response(_MACHINES.dump_json(found), media_type="application/json")


@summaries.get("", response_model=list[MachineSummary])
def list_summaries(
    _user: Reader,
    installation: Installation,
    after: Annotated[str, Query(max_length=LABEL_LENGTH)] = "",
    limit: Annotated[int, Query(ge=1, le=LINES)] = LINES,
    state: MachineState | None = None,
    policy: Wanted = None,
    process_server: Wanted = None,
    prefix: Annotated[str, Query(max_length=LABEL_LENGTH)] = "",
) -> Response:
    """Return the same list with one line for each machine, which is fast for thousands of them; ``prefix`` filters by
    the start of the name."""
    now = installation.clock.now()
    with installation.catalog.reading() as tx:
        rows = machines.lines(tx, replace(_wanted(tx, after, state, policy, process_server), prefix=prefix), limit)
        servers = {one.id: one for one in process_servers.every(tx)}
    found = [views.summary(row, now, servers) for row in rows]
    return Response(_SUMMARIES.dump_json(found), media_type="application/json")


def _wanted(
    tx: Transaction, after: str, state: MachineState | None, policy: str | None, process_server: str | None
) -> machines.MachineFilter:
    server = None if process_server is None else process_servers.get(tx, process_server).id
    return machines.MachineFilter(after, state, policy, server)


@router.post("", status_code=202)
def add_machine(request: MachineAddition, user: Operator, installation: Installation) -> Job:
    """Install the mobility service over SSH, or by a VMware server's guest operations, as a job."""
    now = installation.clock.now()
    asked = request.model_dump(mode="json", exclude={"private_key", "password", "account"})
    with installation.catalog.writing() as tx:
        policies.for_machines(tx, request.policy)
        through = by = ""
        if request.vmware is not None:
            _check_guest(tx, request, request.vmware)
            by = f" by VMware server {request.vmware.server}"
        if request.through:
            server = process_servers.get_lasting(tx, request.through)
            check_present(server, now)
            asked["through"], through, by = server.id, server.name, f" by process server {server.name}"
        secret, login = seal_login(tx, installation, user, request, through)
        asked |= login
        events.record(
            tx,
            time=now,
            kind="machine.add",
            actor=user.actor,
            subject=f"host/{request.host}",
            message=f"Installation of the mobility service on {request.host}{by} was requested.",
        )
    asked["server_url"] = request.server_url or installation.settings.base_url
    work = {"subject": request.host, "secret": secret, "actor": user.actor, "request": asked}
    return installation.jobs.start(PUSH, work)


def _check_guest(tx: Transaction, request: MachineAddition, guest: VmwareGuest) -> None:
    """Raise NotFound for a machine that discovery does not know, Malformed for options that guest operations do not
    support."""
    vmware.machine(tx, guest.machine, guest.server)
    if request.through or request.jump or request.private_key:
        raise Malformed(
            "Installing through VMware Tools needs a user and password of the guest, without key, "
            "jump host or process server.",
            remedy="Give --password or a push account with a password, or install over SSH.",
        )


@router.get("/{machine}")
def show_machine(machine: Named, _user: Reader, installation: Installation) -> Machine:
    """Return one machine, by id or name."""
    with installation.catalog.reading() as tx:
        return _view(tx, machines.get(tx, machine), installation)


@router.delete("/{machine}", status_code=204)
def delete_machine(machine: Named, user: Contributor, installation: Installation) -> None:
    """Delete a machine that is not protected; its certificates are then no longer accepted. Its data in the vault is
    kept."""
    forget(installation.catalog, installation.recovery, installation.clock, machine, user.actor)


@router.post("/{machine}/uninstall", status_code=202)
def uninstall(machine: Named, request: Uninstallation, user: Contributor, installation: Installation) -> Job:
    """Remove the agent from a machine that is not protected, and delete the machine. The agent is asked over its own
    channel, and removed by SSH if it does not answer. The job's result lists what remains on the machine."""
    secret, login = "", dict[str, Any]()
    with installation.catalog.writing() as tx:
        row = machines.get(tx, machine)
        check_forgettable(tx, row)
        if request.login is not None:
            secret, login = seal_login(tx, installation, user, request.login)
        message = f"Removal of {row.name} and its agent was requested."
        _tell(tx, installation, user, row, "machine.uninstall", message)
        work = {"subject": row.id, "name": row.name, "actor": user.actor, "secret": secret, "login": login}
    return installation.jobs.start(UNINSTALL, work)


@router.post("/{machine}/revoke", status_code=204)
def revoke_machine(machine: Named, user: Contributor, installation: Installation) -> None:
    """Revoke every certificate of a machine and close its stream. Its points are kept.

    To admit it again: farshore token create --machine NAME, and enrol it with that token."""
    now = installation.clock.now()
    with installation.catalog.writing() as tx:
        row = machines.get(tx, machine)
        users.revoke_certificates(tx, "machine", row.id, now)
        fence(tx, row, now, "the machine was revoked")
        _tell(
            tx,
            installation,
            user,
            row,
            "machine.revoked",
            f"{row.name} was revoked: its certificates are no longer accepted.",
        )


@router.get("/{machine}/check")
def check(machine: Named, _user: Reader, installation: Installation) -> list[Finding]:
    """Return what prevents a good protection of this machine, each finding with its remedy."""
    with installation.catalog.reading() as tx:
        return check_machine(machines.get(tx, machine), installation.clock.now())


@router.put("/{machine}/protection")
def protect(machine: Named, request: ProtectionRequest, user: Operator, installation: Installation) -> Machine:
    """Protect a machine, or change how: policy, excluded disks, bandwidth."""
    with installation.catalog.writing() as tx:
        row = machines.get(tx, machine)
        before = fields_of(row, PROTECTION)
        if row.state == MachineState.UNPROTECTED.value:
            # Its disks here are older than what has run there since.
            refuse_elsewhere(failovers.elsewhere(tx, row.id), row, "protect its source again")
            machines.set_state(row, MachineState.ENROLLED)
            commands.abandon(tx, MachineId(row.id), installation.clock.now(), "it is to be protected")
        if request.policy is not None:
            policies.give(tx, row, request.policy)
        if request.exclude_disks is not None:
            _check_disks(row, request.exclude_disks, boot_too=request.exclude_boot_disk)
            row.exclude_disks = sorted(set(request.exclude_disks))
        present = {disk["number"] for disk in row.description.get("disks", [])}
        refuse_too_many(row.name, len(present - set(row.exclude_disks)))
        if request.bandwidth_limit is not None:
            row.bandwidth_limit = request.bandwidth_limit
        if request.cpu_percent is not None:
            row.cpu_percent = request.cpu_percent
        if request.memory_limit is not None:
            row.memory_limit = request.memory_limit
        if request.proof_pace is not None:
            row.proof_pace = request.proof_pace
        if request.process_server is not None:
            row.chosen_server = _chosen_server(tx, row, request.process_server)
        row.protect = True
        details = changed(before, fields_of(row, PROTECTION))
        said = f" Changed: {in_words(details)}." if details else ""
        _tell(tx, installation, user, row, "machine.protect", f"Protection of {row.name} was requested.{said}", details)
        return _view(tx, row, installation)


def _chosen_server(tx: Transaction, row: MachineRow, wanted: str) -> str:
    """Return its id. Raises NotFound, WrongState for a temporary one, unless it is the machine's own."""
    if not wanted:
        return ""
    found = process_servers.get(tx, wanted)
    return found.id if found.id == row.chosen_server else process_servers.get_lasting(tx, wanted).id


@router.delete("/{machine}/protection", status_code=204)
def unprotect(machine: Named, user: Operator, installation: Installation) -> None:
    """End a machine's protection. Its points are kept until retention ends them."""
    now = installation.clock.now()
    with installation.catalog.writing() as tx:
        row = machines.get(tx, machine)
        if MachineState(row.state) in ELSEWHERE - {MachineState.COMMITTED}:
            raise WrongState(f"{row.name} is {row.state}.", remedy="Commit or clean up the failover first.")
        refuse_elsewhere(failovers.elsewhere(tx, row.id), row, "end its protection")
        before = fields_of(row, ("state", "protect", "site"))
        machines.set_state(row, MachineState.UNPROTECTED)
        machines.runs_at_home(tx, row)
        row.protect = False
        details = changed(before, fields_of(row, before))
        fence(tx, row, now, "protection was ended")
        _tell(tx, installation, user, row, "machine.unprotect", f"Protection of {row.name} has ended.", details)


@router.post("/{machine}/upgrade", status_code=202)
def upgrade(machine: Named, user: Operator, installation: Installation) -> Job:
    """Let the agent replace itself by this server's release, without a reboot and without missing a write."""
    with installation.catalog.writing() as tx:
        row = machines.get(tx, machine)
        if row.state not in (MachineState.PROTECTED.value, MachineState.RESYNC.value):
            raise WrongState(f"{row.name} is {row.state}.", remedy="Its agent can be upgraded once it is protected.")
        _tell(tx, installation, user, row, "machine.upgrade", f"An upgrade of {row.name}'s agent was requested.")
        subject = row.id
    return installation.jobs.start(UPGRADE, {"subject": subject, "actor": user.actor})


@router.post("/{machine}/proof", status_code=202)
def prove(machine: Named, request: ProofRequest, user: Operator, installation: Installation) -> Job:
    """Compare the machine's disks with its copy now, and send again what differs."""
    with installation.catalog.writing() as tx:
        row = machines.get(tx, machine)
        if row.state not in (MachineState.PROTECTED.value, MachineState.RESYNC.value):
            raise WrongState(f"{row.name} is {row.state}.", remedy="Its copy can be proven once it is protected.")
        _tell(tx, installation, user, row, "machine.proof", f"A proof of {row.name}'s copy was requested.")
        subject = row.id
    return installation.jobs.start(PROOF, {"subject": subject, "whole": request.whole, "actor": user.actor})


@router.post("/{machine}/resync", status_code=202)
def resync(machine: Named, user: Operator, installation: Installation) -> Machine:
    """Compare the machine with its copy and send the differences, at once."""
    command, now = new_id(), installation.clock.now()

    def asked(tx: Transaction) -> str:
        row = machines.get(tx, machine)
        if row.state not in (MachineState.PROTECTED.value, MachineState.RESYNC.value):
            raise WrongState(f"{row.name} is {row.state}.", remedy="Only a protected machine can be resynced.")
        ask(tx, command, row.id, ResyncArguments(), now)
        _tell(tx, installation, user, row, "machine.resync", f"A resync of {row.name} was requested.")
        return row.id

    found = installation.catalog.write(asked)
    # the agent learns of it at the commit, so nothing must be prepared before
    with installation.catalog.reading() as tx:
        return _view(tx, machines.get(tx, found), installation)


def _in_other_domain(tx: Transaction, rows: Sequence[MachineRow]) -> dict[str, list[str]]:
    """Return, by machine, a warning that its policy's deduplication applies only from its next epoch on."""
    now = epochs.domain_names(tx, rows)
    wanted = {row.name: row.deduplication for row in policies.every(tx)}
    found = {}
    for row in rows:
        asked = wanted[row.policy]
        if now.get(row.id, "") != deduplication_domain(asked, row.id) and row.id in now:
            text = f"It does not share chunks as its policy says ({asked}): run farshore machine resync {row.name}."
            found[row.id] = [text]
    return found


def _view(tx: Transaction, row: MachineRow, installation: Services) -> Machine:
    more = [*_in_other_domain(tx, [row]).get(row.id, []), *_damage(tx, [row]).get(row.id, [])]
    readiness = installation.readiness.of(row, policies.target_away(tx, row.policy))
    return views.machine(row, installation.clock.now(), process_servers.every(tx), more, readiness)


def _damage(tx: Transaction, rows: Sequence[MachineRow]) -> dict[str, list[str]]:
    """Return what the scrub found wrong with the vault's copies, by machine."""
    found: dict[str, list[str]] = {}
    for alert in events.open_alerts_about(tx, (DAMAGE, DAMAGE_OLDER), [f"machine/{row.id}" for row in rows]):
        found.setdefault(alert.subject.partition("/")[2], []).append(f"{alert.message} {alert.remedy}")
    return found


def _check_disks(row: MachineRow, numbers: list[int], *, boot_too: bool) -> None:
    present = {disk["number"] for disk in row.description["disks"]}
    unknown = sorted(set(numbers) - present)
    if unknown:
        raise NotFound(
            f"{row.name} has no disk {unknown[0]}.",
            remedy=f"Its disks are {sorted(present)}; see `farshore machine show`.",
        )
    boot = {disk["number"] for disk in row.description["disks"] if disk.get("boot")}
    left_out = sorted(boot & set(numbers) - set(row.exclude_disks))
    if left_out and not boot_too:
        raise Refused(
            f"{row.name} boots from disk {left_out[0]}: without it a recovered machine cannot boot.",
            remedy="Keep that disk. If you only need the data of the other disks, repeat the command with --yes.",
        )


def _tell(
    tx: Transaction,
    installation: Services,
    user: Identity,
    row: MachineRow,
    kind: str,
    message: str,
    detail: dict[str, object] | None = None,
) -> None:
    assert user.kind is Kind.USER
    events.record(
        tx,
        time=installation.clock.now(),
        kind=kind,
        actor=user.actor,
        subject=f"machine/{row.id}",
        message=message,
        detail=detail,
    )
