"""``farshore vmware``: VMware servers, their machines, and the protection of these machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from farshore.api_types.jobs import Job
from farshore.api_types.machines import CheckSeverity, Finding, MachineAddition, VmwareGuest
from farshore.api_types.users import Role
from farshore.api_types.vmware import (
    DiscoveredMachine,
    DiscoveredSummary,
    VmwareAddress,
    VmwareCertificate,
    VmwarePlace,
    VmwareServer,
    VmwareServerRequest,
)
from farshore.cli.asking import ask, check_role, confirm
from farshore.cli.connection import AsJson, NoWait, Yes, completion, management
from farshore.cli.following import follow
from farshore.cli.logging_in import Account, Jump, Password, Port, SshKey, User, credentials
from farshore.cli.output import (
    as_json_value,
    coloured,
    err,
    moment,
    out,
    print_done,
    print_fields,
    print_json,
    print_table,
    size,
)
from farshore.cli.secret_files import read_secret
from farshore.client.management import Management
from farshore.client.transport import segment
from farshore.model.errors import Refused
from farshore.model.states import JobState

app = typer.Typer(no_args_is_help=True, help="VMware servers: discover machines, check and protect them.")
_SERVERS, _MACHINES = "/v1/vmware", "/v1/vmware-machines"
_PAGE = 1000

ServerName = Annotated[
    str,
    typer.Argument(
        metavar="SERVER",
        help="Name of the VMware server in Farshore.",
        show_default=False,
        autocompletion=completion(_SERVERS),
    ),
]
FoundName = Annotated[
    str,
    typer.Argument(
        metavar="MACHINE",
        help="Name or id (vm-12) of the machine at VMware, or its UUID.",
        show_default=False,
        autocompletion=completion(_MACHINES, by_prefix=True),
    ),
]
At = Annotated[str | None, typer.Option("--server", help="Only machines of this VMware server.", show_default=False)]


@app.command()
def add(
    server: ServerName,
    host: Annotated[str, typer.Argument(help="Name or address of the vCenter or ESXi host.", show_default=False)],
    user: Annotated[str, typer.Option(help="User to log in as, such as farshore@vsphere.local.", show_default=False)],
    port: Annotated[int, typer.Option(min=1, max=65535, help="HTTPS port.")] = 443,
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password; - for standard input. Default: prompt for it.")
    ] = None,
    fingerprint: Annotated[
        str, typer.Option(help="SHA-256 fingerprint of the certificate to pin. Default: show the certificate and ask.")
    ] = "",
    through: Annotated[
        str,
        typer.Option(
            help="Process server at its site that connects to it; needs --fingerprint. Default: the "
            "configuration server."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Add a vCenter or ESXi host, and keep discovering its machines.

    The account needs only the role Read-only, on the vCenter or host itself, with propagation. The server stores the
    password encrypted. Then protect machines with `farshore vmware protect`.

    Example: `farshore vmware add dc1 vcenter.example.com --user farshore@vsphere.local`
    """
    api = management()
    check_role(api, Role.CONTRIBUTOR)
    if through and not fingerprint:
        raise Refused(
            f"The configuration server cannot reach {host} to show its certificate.",
            remedy="Give --fingerprint. To read it on the host itself: openssl x509 -noout -fingerprint "
            "-sha256 -in CERTIFICATE",
        )
    pinned = fingerprint or _ask_fingerprint(api, host, port)
    request = VmwareServerRequest(
        name=server, host=host, port=port, user=user, password=_password(password_file, user), fingerprint=pinned,
        through=through,
    )  # fmt: skip
    made = api.transport.post(_SERVERS, request, VmwareServer)
    if as_json:
        print_json(made)
        return
    if made.through:
        out.print(f"{made.name} was added and is followed by {made.through}. Check discovery: farshore vmware list")
        return
    out.print(
        f"{made.name} was added: {made.product}. List its machines: farshore vmware machines --server {made.name}"
    )


def _ask_fingerprint(api: Management, host: str, port: int) -> str:
    asked = VmwareAddress(host=host, port=port)
    shown = api.transport.post("/v1/vmware-certificates", asked, VmwareCertificate, repeatable=True)
    err.print(f"{host} shows the certificate of {shown.subject or '-'}, valid until {moment(shown.expires)}:")
    err.print(f"  SHA-256 {shown.fingerprint}")
    confirm("Is this the right fingerprint?")
    return shown.fingerprint


def _password(file: Path | None, user: str) -> SecretStr:
    if file is None:
        return SecretStr(typer.prompt(f"Password of {user}", hide_input=True, err=True))
    return SecretStr(read_secret(file, "password").rstrip("\r\n"))


@app.command("list")
def list_servers(as_json: AsJson = False) -> None:
    """List VMware servers and the state of discovery."""
    found = management().transport.get_list(_SERVERS, VmwareServer)
    if as_json:
        print_json(found)
        return
    rows = [
        [one.name, one.host, one.product, one.state.value, str(one.machines), moment(one.seen), one.trouble]
        for one in found
    ]
    columns = ("Server", "Host", "Product", "Discovery", "Machines", "Last answer", "Trouble")
    print_table(columns, rows, "There are no VMware servers. Add one: farshore vmware add NAME HOST --user USER")
    for one in found:
        if one.remedy:
            out.print(f"{one.name}: {one.remedy}")


@app.command()
def remove(server: ServerName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a VMware server, its password and its discovered machines. Protected machines stay protected."""
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Delete VMware server {server}?", yes=yes)
    api.transport.delete(f"{_SERVERS}/{segment(server)}")
    print_done(f"VMware server {server} was deleted.", as_json, removed=server)


@app.command()
def machines(server: At = None, as_json: AsJson = False) -> None:
    """List discovered machines.

    Example: `farshore vmware machines --server dc1`
    """
    found = _all_machines(management(), server)
    if as_json:
        print_json(found)
        return
    rows = [
        [
            one.name,
            one.server,
            "template" if one.template else one.power,
            one.guest,
            one.address or "-",
            str(one.disks),
            size(one.size),
            one.protected_as or "-",
        ]
        for one in found
    ]
    columns = ("Machine", "Server", "Power", "Guest", "Address", "Disks", "Size", "Protected as")
    print_table(columns, rows, "No machines were found. Check the state of discovery: farshore vmware list")


def _all_machines(api: Management, server: str | None) -> list[DiscoveredSummary]:
    found: list[DiscoveredSummary] = []
    while True:
        after = {"after": found[-1].name, "after_server": found[-1].server, "after_id": found[-1].id} if found else {}
        page = api.transport.get_list(_MACHINES, DiscoveredSummary, server=server, **after)
        found += page
        if len(page) < _PAGE:
            return found


@app.command()
def places(server: ServerName, as_json: AsJson = False) -> None:
    """List the hosts, clusters, datastores, networks and folders of a VMware server."""
    found = management().transport.get_list(f"{_SERVERS}/{segment(server)}/places", VmwarePlace)
    if as_json:
        print_json(found)
        return
    rows = [
        [one.kind.value, one.name, one.id, _state(one), size(one.free) if one.capacity else "-",
         size(one.capacity) if one.capacity else "-"]
        for one in found
    ]  # fmt: skip
    print_table(("Kind", "Name", "Id", "State", "Free", "Capacity"), rows, "The VMware server has no places.")


def _state(place: VmwarePlace) -> str:
    if place.maintenance:
        return "in maintenance"
    return "" if place.accessible else "not reachable"


@app.command()
def show(machine: FoundName, server: At = None, as_json: AsJson = False) -> None:
    """Show a discovered machine: location, hardware, disks and network cards."""
    found = _machine(management(), machine, server)
    if as_json:
        print_json(found)
        return
    facts = found.facts
    print_fields(
        [
            ("Name", facts.name),
            ("At", f"{found.server}, {facts.id}"),
            ("Protected as", found.protected_as),
            ("UUID", facts.uuid),
            ("Power", facts.power),
            ("Guest", facts.guest_found or facts.guest),
            ("Host name", facts.host_name),
            ("Addresses", ", ".join(facts.addresses or filter(None, [facts.address]))),
            ("Tools", facts.tools),
            ("Firmware", facts.firmware),
            ("Processors", str(facts.processors)),
            ("Memory", size(facts.memory)),
            ("Host", found.host),
            ("Folder", found.folder),
            ("Datastores", ", ".join(found.datastores)),
            ("Networks", ", ".join(found.networks)),
            ("Snapshots", str(facts.snapshots)),
        ]
    )
    rows = [[one.label, size(one.size), one.backing.value, one.mode, one.controller, one.file] for one in facts.disks]
    print_table(("Disk", "Size", "Backing", "Mode", "Controller", "File"), rows, "It has no disks.")


@app.command()
def check(machine: FoundName, server: At = None, as_json: AsJson = False) -> None:
    """Check whether a machine can be protected, by what its VMware server reports. Exits with status 1 if not.

    The agent checks the rest in the guest before it enrols: kernel, free space, name resolution, time.

    Example: `farshore vmware check web1`
    """
    found = _machine(management(), machine, server)
    if as_json:
        print_json(found.findings)
    else:
        rows = [[one.severity.value, one.subject, one.message, one.remedy] for one in found.findings]
        print_table(("Result", "Subject", "Finding", "Remedy"), rows, "")
    if _errors(found):
        raise typer.Exit(1)


def _errors(found: DiscoveredMachine) -> list[Finding]:
    return [one for one in found.findings if one.severity is CheckSeverity.ERROR]


def _machine(api: Management, machine: str, server: str | None) -> DiscoveredMachine:
    return api.transport.get(f"{_MACHINES}/{segment(machine)}", DiscoveredMachine, server=server)


@app.command()
def protect(
    machine: Annotated[list[str], typer.Argument(metavar="MACHINE...", help="Names, ids or UUIDs.")],
    server: At = None,
    account: Account = "",
    ssh_key: SshKey = None,
    password: Password = False,
    user: User = "root",
    port: Port = 22,
    jump: Jump = "",
    address: Annotated[
        str,
        typer.Option(help="Address of the machine, instead of the one that VMware Tools report. For one machine only."),
    ] = "",
    through_tools: Annotated[
        bool,
        typer.Option(
            "--through-tools",
            help="Install through VMware Tools, if there is no network path to the machine. Needs a password.",
        ),
    ] = False,
    policy: Annotated[str, typer.Option(help="Replication policy.")] = "default",
    disk: Annotated[
        list[str] | None, typer.Option(help="Protect only this disk, such as /dev/sda. Repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check the machines and show their addresses.")
    ] = False,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Install the mobility service on discovered machines, over SSH or VMware Tools, and protect them.

    All are checked first; an error on any of them prevents the start of all. The machines keep their VMware names.

    Example: `farshore vmware protect web1 web2 db1 --account datacentre`
    """
    api = management()
    if address and len(machine) > 1:
        raise Refused("--address is for one machine only.", remedy="Run the command once for each machine.")
    found = [_machine(api, one, server) for one in machine]
    where = [(one, address or _address(one, through_tools=through_tools)) for one in found]
    if dry_run:
        _show_plan(where, as_json=as_json)
        return
    key, secret = credentials(ssh_key, password, account)
    requests = [
        MachineAddition(
            host=host, port=port, user=user, private_key=key, password=secret, account=account, jump=jump,
            name=one.facts.name, policy=policy, disks=disk or [],
            vmware=VmwareGuest(server=one.server, machine=one.facts.id) if through_tools else None,
        )
        for one, host in where
    ]  # fmt: skip
    jobs = [api.transport.post("/v1/machines", request, Job) for request in requests]
    _finish(api, [request.name for request in requests], jobs, as_json=as_json, no_wait=no_wait)


def _address(found: DiscoveredMachine, *, through_tools: bool = False) -> str:
    """Return the address of a machine, or its name if it is reached through VMware Tools. Raises Refused if it cannot
    be protected."""
    name = found.facts.name
    if found.protected_as:
        raise Refused(f"{name} is protected as {found.protected_as}.", remedy="Remove it from the command.")
    errors = _errors(found)
    if errors:
        said = " ".join(f"{one.subject}: {one.message}" for one in errors)
        raise Refused(f"{name} cannot be protected: {said}", remedy=f"See farshore vmware check {name}")
    if through_tools:
        if found.facts.tools != "guestToolsRunning":
            raise Refused(
                f"VMware Tools do not run in {name}.",
                remedy="Start open-vm-tools in the guest, or install over SSH without --through-tools.",
            )
        return name
    if not found.reachable:
        raise Refused(
            f"VMware Tools in {name} report no address.", remedy="Start open-vm-tools in the guest, or give --address."
        )
    return found.reachable[0]


def _show_plan(where: Sequence[tuple[DiscoveredMachine, str]], *, as_json: bool) -> None:
    if as_json:
        print_json([{"machine": one.facts.name, "address": host, "findings": one.findings} for one, host in where])
        return
    rows = [[one.facts.name, host, str(len(one.findings) if _matters(one) else 0)] for one, host in where]
    print_table(("Machine", "Reached at", "Findings"), rows, "")


def _matters(found: DiscoveredMachine) -> bool:
    return any(one.severity is not CheckSeverity.OK for one in found.findings)


def _finish(api: Management, names: Sequence[str], jobs: Sequence[Job], *, as_json: bool, no_wait: bool) -> None:
    """Follow all jobs, print how each ended, and exit with status 1 if one failed."""
    ended = jobs if no_wait else [follow(api, job, quiet=as_json) for job in jobs]
    if as_json:
        print_json([as_json_value(job) for job in ended])
    for name, job in zip(names, ended, strict=True):
        if as_json:
            continue
        if no_wait:
            out.print(f"{name}: job {job.id} is {job.state.value}.")
        elif job.state is JobState.SUCCEEDED:
            out.print(
                coloured(name, "green", f" is enrolled. Follow its initial replication: farshore machine watch {name}")
            )
        else:
            err.print(coloured(f"{name}: {job.kind} {job.state.value}.", "red", f" {job.error} {job.remedy}"))
    if not no_wait and any(job.state is not JobState.SUCCEEDED for job in ended):
        raise typer.Exit(1)
