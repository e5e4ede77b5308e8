"""The grammar of checks of a recovered machine, as options take them and tables show them.

``tcp:22``, ``http:80/health,status=204,contains=ok``, ``https:443/``, ``ssh:22``, ``script:NAME``,
``guest:NAME,key=KEY,user=USER,port=22``, ``agent:NAME``, ``console:TEXT``; each may end in ``,within=SECONDS``.
"""

from __future__ import annotations

from pydantic import ValidationError

from farshore.api_types.checks import Check, CheckKind, CheckResult
from farshore.cli.output import duration
from farshore.model.errors import Malformed
from farshore.model.faults import sentence

CHECK_HELP = (
    "Check to run when the machine is up: tcp:PORT, http:PORT/PATH[,status=N][,contains=TEXT] (or "
    "https), ssh:PORT, script:NAME (a script in the server's checks folder), "
    "guest:NAME,key=KEY[,user=USER][,port=PORT] (that script run in the guest over SSH, with a key of "
    "that folder), agent:NAME (that script run by the machine's agent) or console:TEXT, each with an optional "
    ",within=SECONDS. Repeatable"
)
_NO_CHECK = "none"
_OPTIONS = frozenset({"status", "contains", "within"})
_GUEST_OPTIONS = _OPTIONS | {"key", "user", "port"}
_SSH_PORT = 22


def parse_check(text: str) -> Check:
    """Parse one check. Raises Malformed."""
    word, _, rest = text.partition(":")
    in_guest = word == CheckKind.GUEST.value
    target, options = _split(rest, _GUEST_OPTIONS if in_guest else _OPTIONS)
    values: dict[str, object] = {"kind": word, **options}
    if word in (CheckKind.HTTP.value, CheckKind.HTTPS.value):
        port, slash, path = target.partition("/")
        values |= {"port": port, "path": slash + path}
    elif word in (CheckKind.TCP.value, CheckKind.SSH.value):
        values["port"] = target
    elif word in (CheckKind.SCRIPT.value, CheckKind.AGENT.value) or in_guest:
        values["script"] = target
        if in_guest:
            values.setdefault("port", _SSH_PORT)
    elif word == CheckKind.CONSOLE.value:
        values["contains"] = target
    try:
        return Check.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        what = " ".join([*(str(part) for part in fault["loc"]), sentence(fault)])
        raise Malformed(f"{text!r} is not a check: {what}.", remedy=f"{CHECK_HELP}.") from error


def parse_checks(texts: list[str]) -> list[Check]:
    """Parse a list of checks; ``none`` alone means no check. Raises Malformed."""
    return [] if texts == [_NO_CHECK] else [parse_check(text) for text in texts]


def checks_of(machines: list[str], texts: list[str] | None) -> dict[str, list[Check] | None]:
    """Parse the checks of each machine; None keeps those of its target. A text that begins with ``MACHINE=`` is for
    that machine alone. Raises Malformed."""
    if texts is None:
        return dict.fromkeys(machines)
    of: dict[str, list[str]] = {machine: [] for machine in machines}
    for text in texts:
        machine, equals, rest = text.partition("=")
        for one in [machine] if equals and machine in of else machines:
            of[one].append(rest if equals and machine in of else text)
    return {machine: parse_checks(mine) if mine else None for machine, mine in of.items()}


def shown_check(check: Check) -> str:
    """Return a check as it is written on the command line."""
    target = check.script or (check.contains if check.kind is CheckKind.CONSOLE else f"{check.port}{check.path}")
    options = [f"status={check.status}"] if check.status is not None else []
    if check.kind is CheckKind.GUEST:
        options.append(f"key={check.key}")
        options += [f"user={check.user}"] if check.user else []
        options += [f"port={check.port}"] if check.port != _SSH_PORT else []
    if check.contains and check.kind is not CheckKind.CONSOLE:
        options.append(f"contains={check.contains}")
    if check.within != Check.model_fields["within"].default:
        options.append(f"within={check.within}")
    return ",".join([f"{check.kind.value}:{target}", *options])


def shown_result(result: CheckResult) -> str:
    """Return the result of a check in one line."""
    how = f"passed after {duration(result.seconds)}" if result.passed else f"failed ({result.tries} tries)"
    return f"{shown_check(result.check)} {how}: {' '.join(result.detail.split())[:200]}"


def _split(rest: str, known: frozenset[str]) -> tuple[str, dict[str, str]]:
    """Split a check into its target and options. A comma without an option after it belongs to the text before."""
    target, *words = rest.split(",")
    options: dict[str, str] = {}
    last = ""
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in known:
            options[name], last = value, name
        elif last:
            options[last] += f",{word}"
        else:
            target += f",{word}"
    return target, options
