"""``farshore machine add --ssh-agent``: a push from the command line's side, with the keys of its user's SSH agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from farshore import programs
from farshore.api_types.machines import Machine, Token, TokenRequest, TokenView
from farshore.cli.output import err
from farshore.client.management import Management
from farshore.client.transport import segment
from farshore.model.errors import Malformed, TryLater, as_error

PROGRAM = "farshore.configuration_server.agent_push"
TOKEN_SECONDS = 1800
PATIENCE = 300.0
POLL = 1.0


def agent_socket() -> str:
    """Where the user's SSH agent listens. Raises Malformed."""
    found = os.environ.get("SSH_AUTH_SOCK", "")
    if not found:
        raise Malformed(
            "There is no SSH agent: SSH_AUTH_SOCK is not set.",
            remedy="Start one, eval $(ssh-agent); ssh-add; through sudo, keep the variable: "
            "sudo --preserve-env=SSH_AUTH_SOCK.",
        )
    return found


def push(api: Management, login: dict[str, Any], request: TokenRequest, *, quiet: bool) -> Machine | None:
    """Install, enrol, and wait until the machine reports; None where it was enrolled already.

    ``login``: host, port, user, jump, host_key, disks and server_url (empty: as advertised). Raises what the
    installation raised; its token opens nothing then.
    """
    programs.check_installed("farshore machine add --ssh-agent", "server")
    socket = agent_socket()
    token = api.create_token(request)
    asked = {
        **login,
        "agent": socket,
        "server_url": login["server_url"] or token.server_url,
        "token": token.token,
        "authority_fingerprint": token.authority_fingerprint,
    }
    try:
        _install(asked, quiet=quiet)
        return _reporting(api, login["host"], token)
    except BaseException:  # Ctrl-C too: the token of a push that failed must open nothing
        view = _view(api, token)
        if not view.used:
            api.transport.delete(f"/v1/enrolment-tokens/{segment(view.id)}")
        raise


def _reporting(api: Management, host: str, token: Token) -> Machine | None:
    """The machine, once it reports; None where it was enrolled already, and the token is not used."""
    view = _view(api, token)
    if not view.used:
        api.transport.delete(f"/v1/enrolment-tokens/{segment(view.id)}")
        return None
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        machine = api.machine(view.machine)
        if machine.last_seen:
            return machine
        time.sleep(POLL)
    raise TryLater(
        f"The mobility service on {host} is installed and enrolled, but does not report.",
        remedy="On the machine: journalctl -u farshore-mobility; check that it reaches this server's address.",
    )


def _view(api: Management, token: Token) -> TokenView:
    """The token as it is listed. Its id is not told when it is made; no other one expires in the same nanosecond."""
    listed = api.transport.get_list("/v1/enrolment-tokens", TokenView)
    return next(one for one in listed if one.expires == token.expires)


def _install(asked: dict[str, Any], *, quiet: bool) -> None:
    progress = subprocess.DEVNULL if quiet else None
    done = subprocess.run(
        [sys.executable, "-m", PROGRAM], input=json.dumps(asked), stdout=subprocess.PIPE, stderr=progress, text=True,
        check=False,
    )  # fmt: skip
    said: dict[str, str] = json.loads(done.stdout or "{}")
    if done.returncode:
        message, remedy = said.get("message", "The installation ended early."), said.get("remedy", "Try again.")
        raise as_error(said.get("code", ""), message, remedy)
    if not quiet:
        err.print(f"The host showed the key {said['host_key']}.")
