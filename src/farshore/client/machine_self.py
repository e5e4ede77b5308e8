"""A protected machine's calls to the configuration server."""

from __future__ import annotations

import contextlib
from typing import Iterator, List

from farshore.api_types.commands import Command, CommandResult, Commands, CommandStanding
from farshore.api_types.guest_scripts import GuestScriptResult, GuestScripts, GuestScriptStanding
from farshore.api_types.machines import (
    Desired,
    Enrolment,
    EpochGrant,
    EpochRequest,
    Heartbeat,
    ReleaseSignature,
    RenewalRequest,
)
from farshore.client.certified import CertifiedClient
from farshore.client.transport import AGAIN, LEAVE, parsed_lines, segment


class MachineSelf(CertifiedClient):
    """Calls with a machine's certificate."""

    def open_epoch(self, request: EpochRequest) -> EpochGrant:
        """Ask for permission to send a new epoch. Raises Fenced or WrongState if this machine must not send."""
        return self._transport.post("/v1/machines/self/epochs", request, EpochGrant)

    def heartbeat(self, heartbeat: Heartbeat) -> Desired:
        """Report the machine's state and return its desired state."""
        return self._transport.post("/v1/machines/self/heartbeat", heartbeat, Desired)

    @contextlib.contextmanager
    def commands(self, run: str, epoch: int, hardware: str) -> Iterator[Iterator[List[Command]]]:
        """Yield the open commands, first as they are and then at each change. Ends, or raises Unreachable, when the
        server ends the request or the connection breaks. Waiting costs no processor time. Raises Fenced if a newer run
        of this agent has taken over."""
        with self._transport.lines("/v1/machines/self/commands", run=run, epoch=epoch, hardware=hardware) as lines:
            yield (line.commands for line in parsed_lines(Commands, lines))

    def answer(self, command: str, result: CommandResult) -> CommandStanding:
        """Report the result of a command. Raises NotFound for one that the server no longer has."""
        return self._transport.put(f"/v1/machines/self/commands/{segment(command)}/result", result, CommandStanding)

    def guest_scripts(self, hardware: str) -> GuestScripts:
        """Return the check scripts that are granted now, if this is a recovered machine."""
        return self._transport.get("/v1/machines/self/guest-scripts", GuestScripts, hardware=hardware)

    def answer_guest_script(self, script: str, result: GuestScriptResult) -> GuestScriptStanding:
        """Report the result of a check script. Raises NotFound for one that the server no longer has, or that was for
        another machine."""
        return self._transport.put(
            f"/v1/machines/self/guest-scripts/{segment(script)}/result", result, GuestScriptStanding
        )

    def renew(self, request: RenewalRequest) -> Enrolment:
        """Return a new certificate for the same machine."""
        return self._transport.post("/v1/machines/self/certificate", request, Enrolment)

    def bundle(self, release: str) -> bytes:
        """Return a release of the agent, as it was announced with an upgrade. Raises NotFound."""
        return self._transport.request("GET", f"/v1/machines/self/bundles/{release}", retries=AGAIN)

    def signature(self, release: str) -> ReleaseSignature:
        """Return the release key's signature of a release. Raises NotFound."""
        return self._transport.get(f"/v1/machines/self/bundles/{release}/signature", ReleaseSignature)

    @property
    def url(self) -> str:
        """The URL of the configuration server that is called."""
        return self._transport.url

    @property
    def servers(self) -> List[str]:
        """The configuration servers that this machine may use, in order, as last announced; empty if an older release
        announces none."""
        return [one for one in self._transport.servers.split() if one != LEAVE]

    @property
    def leaves(self) -> bool:
        """Whether this machine should switch to the first of them now."""
        return self._transport.servers.split()[:1] == [LEAVE]

    def move_to(self, url: str) -> None:
        """Switch to another configuration server of the same authority."""
        self._transport.servers = ""
        self._transport.move_to(url)
