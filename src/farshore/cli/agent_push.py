"""``farshore machine add --ssh-agent``: installs the agent from here, with the keys of the user's SSH agent."""

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
    """Return the socket of the user's SSH agent. Raises Malformed."""
    found = os.environ.get("SSH_AUTH_SOCK", "")
    if not found:
        raise Malformed(
            "There is no SSH agent: SSH_AUTH_SOCK is not set.",
            remedy="Start one: eval $(ssh-agent); ssh-add. With sudo, pass the variable on: sudo "
            "--preserve-env=SSH_AUTH_SOCK.",
        )
    return found


def push(api: Management, login: dict[str, Any], request: TokenRequest, *, quiet: bool) -> Machine | None:
    """Install and enrol the agent, then wait until it reports. Return None if the machine was enrolled before.

    ``login`` has host, port, user, jump, host_key, disks and server_url ("" for the advertised one). If the
    installation fails, its token is revoked and its error raised.
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
    except BaseException:  # also after Ctrl-C: a failed push must leave no usable token
        view = _view(api, token)
        if not view.used:
            api.transport.delete(f"/v1/enrolment-tokens/{segment(view.id)}")
        raise


def _reporting(api: Management, host: str, token: Token) -> Machine | None:
    """Return the machine once it reports, or None if it was enrolled before, which leaves the token unused."""
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
        f"The mobility service on {host} is installed and enrolled, but has not reported.",
        remedy="Read its log on the machine (journalctl -u farshore-mobility), and check that the machine "
        "reaches this server's address.",
    )


def _view(api: Management, token: Token) -> TokenView:
    """Find a new token in the list, to learn its id. Its expiry in ns identifies it."""
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
