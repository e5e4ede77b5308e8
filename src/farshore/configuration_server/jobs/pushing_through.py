"""A push that a process server carries out: what the job of ``push.py`` does instead of logging in itself.

It records the push under the job's own id, with a sealed token, and waits for the server's result. So nothing depends
on this process: a server that resumes the job finds the push as it is by then, and continues to wait. The process
server learns of it in the answer to its next report, within a second.

The wait ends if the process server gives no sign for a while, neither about the push nor, while that is queued, about
those before it; and if the push's time is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from farshore.api_types.machines import TokenRequest
from farshore.api_types.pushes import PushResult
from farshore.catalog import machines, process_servers, pushes, secrets
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.delegated import DelegatedState
from farshore.catalog.tables import ProcessServerRow, PushRow
from farshore.configuration_server.push_logins import Logins, jump_place_of, known_keys, place_of
from farshore.configuration_server.sealing import SecretSealer
from farshore.durable.jobs import Request
from farshore.model.errors import (
    Cancelled,
    Displaced,
    FarshoreError,
    Forbidden,
    NotFound,
    Refused,
    TryLater,
    Unreachable,
    as_error,
)
from farshore.model.ports import Clock
from farshore.protection.enrolment import SECOND, create_token
from farshore.protection.installation import Reporter
from farshore.protection.pushes import LINE_SECONDS, TOKEN_SECONDS, check_present, stand_in

POLL = 0.5
QUIET_LOOKS = 120
"""Polls of the catalog without a sign of the process server, which gives one a second, before it is given up. Polls and
not seconds: a server that was paused itself has received nothing."""
_OURS = (Cancelled, Displaced)
"""Errors that concern this server and its jobs: no process server may end a job with them."""


def token_sealed_as(push: str) -> str:
    """Return the name that the token of a push is sealed under."""
    return f"push-token/{push}"


@dataclass(frozen=True)
class PushesThrough:
    """Pushes by process servers. ``give_up`` is the job's: it is called with the token of a push that failed, and the
    reason."""

    catalog: Catalog
    clock: Clock
    sealer: SecretSealer
    logins: Logins
    give_up: Callable[[Request, str, Exception], None]

    def known(self, job: str) -> str:
        """Return the process server that a push was given to before this process began, or ""."""
        with self.catalog.reading() as tx:
            row = pushes.find(tx, job)
            return "" if row is None else row.server

    def instead(self, asked: Mapping[str, Any], error: Unreachable) -> str:
        """Return the process server that logs in if this server cannot reach a host. Raises ``error``, with another
        remedy if there are several to choose from. The same applies if the host's key is known here: at another site
        the address may belong to another host, which would be trusted as on first contact."""
        with self.catalog.reading() as tx:
            found, others = stand_in(process_servers.every(tx), _server_of(tx, asked["name"]), self.clock.now())
            places = place_of(asked), jump_place_of(asked)
            known = any(place and secrets.host_key(tx, place) for place in places)
        if found is not None and asked.get("stays"):
            remedy = (
                f"Ask a contributor to add it --through {found.name}, or log in with a key of your own: a push account "
                "that an operator uses does not leave this server."
            )
        elif found is not None and known:
            remedy = f"It is known here by its key. If it is at the site of {found.name}: --through {found.name}."
        elif found is not None:
            return found.id
        elif others:
            remedy = f"Name the process server at its site: --through {' or '.join(others)}."
        else:
            raise error
        raise Unreachable(error.message, remedy=remedy) from error

    def carry_out(self, job: str, request: Request, server: str, wanted: TokenRequest, report: Reporter) -> str:
        """Let the server do it; return the id of the token. Raises its error, Cancelled, TryLater if it is silent."""
        asked = {**request["request"], "through": server}

        def begin(tx: Transaction) -> tuple[PushRow, ProcessServerRow]:
            at, row = process_servers.get(tx, server), pushes.find(tx, job)
            if row is None:
                if request["secret"]:
                    secrets.get(tx, request["secret"])  # gone: the job was cancelled meanwhile
                token = create_token(tx, wanted, request["actor"], self.clock.now())
                sealed = self.sealer.seal(token_sealed_as(job), token.secret.encode())
                row = PushRow(
                    id=job,
                    server=at.id,
                    actor=request["actor"],
                    login=asked,
                    secret=request["secret"],
                    token=token.id,
                    token_secret=sealed,
                    created=self.clock.now(),
                    ends=self.clock.now() + LINE_SECONDS * SECOND,
                )
                pushes.ask(tx, row)
            return row, at

        try:
            self._check_present(job, server)
        except FarshoreError as error:
            self.give_up(request, "", error)
            raise
        row, at = self.catalog.write(begin)
        try:
            result = self._wait_for(job, at.name, report)
            if result is not None:
                self._remember(asked, _good(result))
        except Exception as error:
            self.catalog.write(lambda tx: pushes.drop(tx, job))
            self.give_up(request, row.token, error)
            raise
        if result is None:
            raise Cancelled("The push was cancelled.", remedy="Add the machine again.")
        return row.token

    def _check_present(self, job: str, server: str) -> None:
        """Raise NotFound, WrongState or TryLater if the server would not learn of a push that it was not given yet: it
        may have gone since it was named."""
        with self.catalog.reading() as tx:
            if pushes.find(tx, job) is None:
                check_present(process_servers.get(tx, server), self.clock.now())

    def _wait_for(self, job: str, name: str, report: Reporter) -> PushResult | None:
        """Return the process server's result, or None if somebody has deleted the push."""
        heard, quiet = (-1, -1), 0
        while quiet < QUIET_LOOKS:
            with self.catalog.reading() as tx:
                row = pushes.find(tx, job)
                before = (0, 0) if row is None else pushes.begun_by(tx, row.server)
            if row is None:
                return None
            if row.state == DelegatedState.ENDED.value:
                return PushResult.model_validate(row.result)
            if self.clock.now() >= row.ends:
                raise _late(row, name)
            waits = row.state == DelegatedState.WAITING.value
            signs = before if waits else (1, row.signs)
            heard, quiet = signs, 0 if signs != heard else quiet + 1
            in_line = f"it waits, {before[0]} others are under way" if before[0] else "it has not begun"
            report(row.fraction, f"{name}: {in_line if waits else row.detail or 'it has begun'}")
            time.sleep(POLL)
        raise TryLater(
            f"Process server {name} does not report on the push.",
            remedy="Check its state and its release: farshore process-server show",
        )

    def _remember(self, asked: dict[str, Any], result: PushResult) -> None:
        """Store the keys that the hosts showed. Raises Forbidden for one that should not have been accepted."""
        with self.catalog.reading() as tx:
            host_key, jump_key = known_keys(tx, asked)
        for place, shown, expected in (
            (place_of(asked), result.host_key, host_key),
            (jump_place_of(asked), result.jump_key, jump_key),
        ):
            if expected and shown and shown != expected:
                raise Forbidden(
                    f"The process server continued although {place} showed the host key {shown}, not {expected}.",
                    remedy="Check that process server: it has ignored the expected host key.",
                )
            if place and shown:
                self.logins.remember(place, shown)


def _good(result: PushResult) -> PushResult:
    failure = result.failure
    if failure is None:
        return result
    error = as_error(failure.code, failure.message, failure.remedy)
    raise Refused(error.message, remedy=error.remedy) if isinstance(error, _OURS) else error


def _late(row: PushRow, name: str) -> TryLater:
    if row.state == DelegatedState.WAITING.value:
        return TryLater(
            f"Process server {name} has not started this push within {LINE_SECONDS // 3600} hours.",
            remedy="See its other work with `farshore job list`, then add the machine again.",
        )
    return TryLater(
        f"Process server {name} has not completed the push within {TOKEN_SECONDS // 60} minutes "
        f"({row.detail or 'it has reported nothing'}).",
        remedy="Read its log (journalctl -u farshore-process-server), then add the machine again.",
    )


def _server_of(tx: Transaction, name: str) -> str | None:
    """Return the process server of a machine that is already known by that name."""
    try:
        return machines.get(tx, name).process_server if name else None
    except NotFound:
        return None
