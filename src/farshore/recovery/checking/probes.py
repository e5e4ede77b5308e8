"""Try a check once, by its kind: whether it passed, and what was seen.

A guest's output is read within limits of size and time, and is recorded as text only.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from farshore.api_types.body import clean
from farshore.api_types.checks import Check, CheckKind
from farshore.model.errors import FarshoreError
from farshore.recovery.checking.agent_scripts import AgentScripts
from farshore.recovery.checking.reach import Reach, explained, receive
from farshore.recovery.checking.scripts import ScriptFolder

_TRY_SECONDS = 5.0
_MOST_BODY = 1 << 20
_SHOWN = 400
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?:[ \r\n]|$)")
Seen = tuple[bool, str]


@dataclass(frozen=True)
class Surroundings:
    """What a check needs. ``console``: the machine's text at this moment."""

    reach: Reach
    console: Callable[[], str]
    scripts: ScriptFolder
    facts: Mapping[str, str]
    """For scripts: the ids of the machine and the failover, and the machine's name."""
    agent: AgentScripts


def attempt(check: Check, around: Surroundings) -> Seen:
    """Try the check once."""
    try:
        passed, detail = _PROBES[check.kind](check, around)
    except (FarshoreError, OSError) as error:
        passed, detail = False, explained(error)
    return passed, str(clean(detail))


def _tcp(check: Check, around: Surroundings) -> Seen:
    if around.reach.answers(_port(check)):
        return True, f"port {check.port} accepts connections"
    return False, f"port {check.port} does not answer"


def _http(check: Check, around: Surroundings) -> Seen:
    end = time.monotonic() + _TRY_SECONDS
    with around.reach.connect(_port(check)) as plain:
        if check.kind is CheckKind.HTTPS:
            with _unverified().wrap_socket(plain, server_hostname="localhost") as peer:
                return _judged(check, _get(peer, check.path, end))
        return _judged(check, _get(plain, check.path, end))


def _get(peer: socket.socket, path: str, end: float) -> bytes:
    request = f"GET {path or '/'} HTTP/1.0\r\nHost: localhost\r\nUser-Agent: farshore\r\nConnection: close\r\n\r\n"
    peer.sendall(request.encode("ascii"))
    return receive(peer, _MOST_BODY, end)


def _judged(check: Check, answer: bytes) -> Seen:
    status_line = _STATUS_LINE.match(answer)
    if status_line is None:
        return False, f"no HTTP answer: {_shown(answer)}" if answer else "the connection was closed without an answer"
    status, body = int(status_line[1]), answer.partition(b"\r\n\r\n")[2]
    if status != check.status if check.status is not None else status >= 400:
        return False, f"status {status}"
    if check.contains and check.contains.encode() not in body:
        return False, f"status {status}, without {check.contains!r}: {_shown(body)}"
    return True, f"status {status}, {len(body)} bytes"


def _ssh(check: Check, around: Surroundings) -> Seen:
    with around.reach.connect(_port(check)) as peer:
        heard = receive(peer, 1024, time.monotonic() + _TRY_SECONDS, until=b"\n")
    line = heard.split(b"\n")[0]
    return line.startswith(b"SSH-2.0-"), _shown(line) if line else "the connection was closed without an answer"


def _script(check: Check, around: Surroundings) -> Seen:
    reach = around.reach
    ports = {f"FARSHORE_PORT_{guest}": str(host) for guest, host in reach.forward.items()}
    address = reach.address if reach.forward else reach.own or reach.address
    return around.scripts.run(str(check.script), {**around.facts, **ports, "FARSHORE_ADDRESS": address}, check.within)


def _guest(check: Check, around: Surroundings) -> Seen:
    # Imported here: SSH's library takes 0.2 s to load, and the server starts more often than it makes such a check.
    from farshore.recovery.checking.guest_scripts import run_in_guest

    script, key = around.scripts.check(str(check.script)), around.scripts.key(str(check.key))
    address = around.reach.at(_port(check))
    return run_in_guest(script.read_bytes(), key, check.user or "root", address, check.within)


def _agent(check: Check, around: Surroundings) -> Seen:
    return around.agent.look(check)


def _console(check: Check, around: Surroundings) -> Seen:
    found = check.contains in around.console()
    return found, f"{check.contains!r} is {'' if found else 'not '}on the console"


def _port(check: Check) -> int:
    assert check.port is not None, "farshore.api_types.checks sees to it"
    return check.port


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The guest is the copy of a machine, reached through this host: its certificate is for another name.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _shown(heard: bytes) -> str:
    return repr(heard[:_SHOWN].decode("utf-8", "replace").strip())


_PROBES: Mapping[CheckKind, Callable[[Check, Surroundings], Seen]] = {
    CheckKind.TCP: _tcp,
    CheckKind.HTTP: _http,
    CheckKind.HTTPS: _http,
    CheckKind.SSH: _ssh,
    CheckKind.SCRIPT: _script,
    CheckKind.GUEST: _guest,
    CheckKind.AGENT: _agent,
    CheckKind.CONSOLE: _console,
}
