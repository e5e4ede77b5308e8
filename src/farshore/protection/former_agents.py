"""Commands for agents of earlier releases, which receive them in the answer to a heartbeat and answer in the next one.

With this, an agent of an earlier release continues to work and can be upgraded.
"""

from __future__ import annotations

from collections.abc import Collection

from farshore.api_types.commands import ARGUMENTS, PointArguments, ProveArguments, UpgradeArguments
from farshore.api_types.machines import Desired, FormerCommand, FormerResult
from farshore.catalog import commands
from farshore.catalog.database import Transaction
from farshore.catalog.tables import CommandRow
from farshore.model.commands import CommandKind

_TOO_OLD: dict[str, object] = {
    "code": "unsupported",
    "message": "The agent is of a release that cannot shut its machine down.",
    "remedy": "Upgrade it, then ask again: farshore machine upgrade",
}


def former_commands(tx: Transaction, machine: str, *, proves: bool) -> list[FormerCommand]:
    """Return the machine's open commands in the form for those agents. ``proves``: it knows that kind. Such an agent
    cannot shut its machine down; that is answered here for it, because somebody waits for the answer."""
    waiting = commands.open_commands(tx, machine)
    for row in waiting:
        if row.kind == CommandKind.SHUT_DOWN.value:
            commands.fail(tx, row, row.created, _TOO_OLD)
    known = [row for row in waiting if row.kind not in (CommandKind.UNINSTALL.value, CommandKind.SHUT_DOWN.value)]
    found = [_former(row) for row in known]
    return [command for command in found if command.kind is not CommandKind.PROVE or proves]


def former_answer(desired: Desired) -> dict[str, object]:
    """Return the answer to the heartbeat of such an agent. It refuses an answer with a field that it does not know."""
    fields = desired.model_dump(mode="json", exclude={"proof_pace", "asked_rpo"})
    for command in fields["commands"]:
        if command["kind"] != CommandKind.PROVE.value:
            del command["whole"]
    return fields


def note_results(tx: Transaction, machine: str, results: Collection[FormerResult], now: int) -> None:
    """Record the answers of such an agent; unknown ids, and late results, change nothing."""
    if not results:
        return  # as in nearly every heartbeat: then the catalog is not read
    waiting = {row.id: row for row in commands.open_commands(tx, machine)}
    for result in results:
        row = waiting.pop(result.id, None)
        if row is None:
            continue
        if result.error:
            commands.fail(tx, row, now, {"code": "refused", "message": result.error, "remedy": ""})
        else:
            commands.succeed(tx, row, now, _payload(row, result))


def _former(row: CommandRow) -> FormerCommand:
    kind = CommandKind(row.kind)
    arguments = ARGUMENTS[kind].model_validate(row.arguments)
    if isinstance(arguments, PointArguments):
        return FormerCommand(id=row.id, kind=kind, point_kind=arguments.kind.value, name=arguments.name)
    if isinstance(arguments, UpgradeArguments):
        return FormerCommand(id=row.id, kind=kind, release=arguments.release, digest=arguments.digest)
    if isinstance(arguments, ProveArguments):
        return FormerCommand(id=row.id, kind=kind, whole=arguments.whole)
    return FormerCommand(id=row.id, kind=kind)


def _payload(row: CommandRow, result: FormerResult) -> dict[str, object]:
    kind = CommandKind(row.kind)
    if kind is CommandKind.POINT:
        return {"epoch": result.epoch, "sequence": result.sequence, "time": result.time}
    if kind is CommandKind.PROVE:
        return {"proven": result.proven, "differing": result.differing, "busy": result.busy}
    return {"release": row.arguments["release"]} if kind is CommandKind.UPGRADE else {}
