"""Check the path home before anything stops: what a failback needs on its way, and the machine once it is there.

From where the machine runs, its last write must reach the vault through its process server. At home this host must read
the vault, the ports to be forwarded must be free, and the agent must reach the configuration server and the process
server at the names that it knows. All problems are reported together.

A machine that no longer runs comes home from the data in the vault, and needs nothing of its site.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from farshore.catalog import machines, process_servers
from farshore.catalog.database import Transaction
from farshore.catalog.tables import MachineRow
from farshore.model.errors import FarshoreError, NotFound, Refused
from farshore.protection import temporary_servers
from farshore.protection.assignment import is_healthy
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.standing import replaced, rows
from farshore.sites.port import Condition

_CONNECT_SECONDS = 5.0
_SECOND = 1_000_000_000
_LOOPBACK = "127.0.0.1"


@dataclass
class _Found:
    """The problems, and the remedy for the first of them."""

    troubles: list[str] = field(default_factory=list)
    remedy: str = ""

    def add(self, trouble: str, remedy: str) -> None:
        self.troubles.append(trouble)
        self.remedy = self.remedy or remedy


def check_path(context: RecoveryContext, failover: str) -> None:
    """Raise Refused with all problems."""
    found = _Found()
    with context.catalog.reading() as tx:
        row, machine = rows(tx, failover)
        name, subject, server = machine.name, machine.id, _server_at_home(context, tx, machine, found)
        earlier = {port for one in replaced(row) for port in rows(tx, one)[0].forward}  # they will be free by then
        ports = sorted(int(port) for port in row.forward if port not in earlier)
    _check_vault(context, subject, found)
    if _runs_away(context, failover):
        _check_last_write(context, subject, found)
        _check_agent(context, subject, found)
    _check_endpoints(context, server, found)
    _check_ports(ports, found)
    if found.troubles:
        raise Refused(f"The failback path of {name} is blocked: {'; '.join(found.troubles)}.", remedy=found.remedy)


def _server_at_home(context: RecoveryContext, tx: Transaction, machine: MachineRow, found: _Found) -> str:
    """The process server that it will send to (its id): a temporary one stays behind."""
    now = process_servers.find(tx, machine.process_server or "")
    if now is None or not now.temporary:
        return machine.process_server or ""
    after = temporary_servers.successor(tx, now, context.clock.now())
    if after is None:
        found.add("no process server is there for it at home", "Add one: farshore process-server add URL")
        return ""
    if not is_healthy(after, context.clock.now()):
        found.add(
            f"process server {after.name}, to which it will send at home, does not report, or is full",
            f"See what holds it up: farshore process-server show {after.name}",
        )
    return after.id


def _runs_away(context: RecoveryContext, failover: str) -> bool:
    with context.catalog.reading() as tx:
        sites = {one: rows(tx, one)[0].site for one in replaced(rows(tx, failover)[0])}
    return any(
        context.site(site).status(failover_id(one)).condition in (Condition.RUNNING, Condition.PAUSED)
        for one, site in sites.items()
    )


def _check_vault(context: RecoveryContext, machine: str, found: _Found) -> None:
    try:
        context.machine_vault(machine).points.latest()
    except (FarshoreError, OSError) as error:
        found.add(f"this host cannot read the vault ({_said(error)})", "Let this host reach the object store.")


def _check_last_write(context: RecoveryContext, machine: str, found: _Found) -> None:
    with context.catalog.reading() as tx:
        row = machines.get(tx, machine)
        try:
            server = process_servers.get(tx, row.process_server or "")
        except NotFound:
            found.add("its process server is no longer known", "See farshore process-server list.")
            return
        name, seen, store_trouble, trouble = server.name, server.last_seen, server.store_trouble, row.stream_trouble
    silent = (context.clock.now() - seen) / _SECOND
    if silent > context.patience.silent_server:
        found.add(
            f"its process server {name} has been silent for {silent:.0f} s, and has the last writes",
            f"Find the reason: farshore process-server show {name}",
        )
    for one in filter(None, (store_trouble, trouble)):
        found.add(f"its process server {name} cannot store ({one})", f"See: farshore process-server show {name}")


def _check_agent(context: RecoveryContext, machine: str, found: _Found) -> None:
    """Its agent is to hold it still: one that does not reach this server cannot be asked."""
    with context.catalog.reading() as tx:
        row = machines.get(tx, machine)
        seen, site = row.last_seen, row.site
    silent = (context.clock.now() - seen) / _SECOND
    if seen and silent > context.patience.silent_agent:
        found.add(
            f"its agent at {site} has been silent for {silent:.0f} s: what it wrote since may not be in the vault",
            "See that it reaches this server from there (VPN, firewall). If it cannot: farshore failover stop, "
            "then repeat; what it wrote since is lost.",
        )


def _check_endpoints(context: RecoveryContext, server: str, found: _Found) -> None:
    tried: dict[tuple[str, int], str] = {}
    for (name, port), address in sorted(context.endpoints(server).items()):
        if address not in tried:
            tried[address] = _connects(address)
        if tried[address]:
            found.add(
                f"{name} port {port}, which its agent will need, does not answer here ({tried[address]})",
                f"Open TCP port {port} from home to {name} (VPN, firewall), and check that its server runs.",
            )


def _connects(address: tuple[str, int]) -> str:
    """Return why a connection failed; empty if it succeeded."""
    try:
        with socket.create_connection(address, timeout=_CONNECT_SECONDS):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _check_ports(ports: list[int], found: _Found) -> None:
    for port in ports:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((_LOOPBACK, port))
            except OSError as error:
                found.add(
                    f"port {port} of this host, which will be forwarded to it, is not free ({error.strerror})",
                    "Choose another: --forward HOST:GUEST",
                )


def _said(error: FarshoreError | OSError) -> str:
    return error.message if isinstance(error, FarshoreError) else str(error)
