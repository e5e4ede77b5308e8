"""Run scripts that check this machine from within, if it is a recovered one: receive them, run each once, answer.

This happens in a machine that Farshore's recovery site created, and only while its host forwards a connection for it
(farshore.model.led_out). Only through that connection is the configuration server asked, by TLS in which the server
proves its identity. A granted script must name this machine and its hardware, so neither the source nor another copy
runs it. The rest of the agent, which replicates, reports and carries out commands, does not use this connection.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import threading
from dataclasses import dataclass, field
from typing import Callable, Dict, Optional

from farshore.api_types.body import clean
from farshore.api_types.guest_scripts import LONGEST, MOST_SHOWN, GuestScript, GuestScriptResult
from farshore.client.credentials import Credentials
from farshore.client.machine_self import MachineSelf
from farshore.client.transport import Transport
from farshore.mobility.control.bounded_run import run_bounded
from farshore.mobility.control.description import hardware_id
from farshore.mobility.control.identity import machine_of
from farshore.mobility.control.led_out import WayOut, recovered
from farshore.mobility.settings import Settings
from farshore.model.errors import FarshoreError, Malformed, NotFound, Refused
from farshore.model.led_out import SCRIPT_PORT

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 2.0


@dataclass
class GuestScripts:
    """``run`` in its own thread. ``machine``: this machine's id; ``hardware``: its hardware id."""

    machine: str
    hardware: str
    calls: Callable[[], MachineSelf]
    """Calls to the configuration server, through the forwarded connection."""
    led: Callable[[], bool]
    """Whether such a connection exists now."""
    _ended: Dict[str, GuestScriptResult] = field(default_factory=dict)
    """By run: results that may not have been received, or whose script is offered again before they were recorded."""

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop``."""
        while not stop.wait(_PAUSE_SECONDS):
            if not self.led():
                continue
            try:
                self.look()
            except (FarshoreError, OSError) as error:
                log.info("No script was received, or its result is sent later: %s", error)

    def look(self) -> None:
        """Run what is granted now, and answer. Raises FarshoreError if the server does not answer."""
        calls = self.calls()
        try:
            for script in calls.guest_scripts(self.hardware).scripts:
                if script.id not in self._ended:
                    self._ended = {script.id: self._outcome(script)}
                self._answer(calls, script.id)
        finally:
            calls.close()

    def _answer(self, calls: MachineSelf, script: str) -> None:
        try:
            state = calls.answer_guest_script(script, self._ended[script]).state
            log.info(
                "A script that checks this machine has ended.", extra={"fields": {"id": script, "to": state.value}}
            )
        except NotFound:
            log.warning("The server no longer knows the script %s.", script)

    def _outcome(self, script: GuestScript) -> GuestScriptResult:
        try:
            program = self._checked(script)
            facts = {"FARSHORE_FAILOVER": script.failover, "FARSHORE_MACHINE_ID": script.machine}
            status, said = run_bounded(program, facts, min(script.seconds, LONGEST), MOST_SHOWN)
        except (FarshoreError, OSError) as error:
            return GuestScriptResult(hardware=self.hardware, output=f"It was not run: {error}")
        text = said.decode("utf-8", "replace").strip()
        if status is None:
            text = f"It took longer than {script.seconds} s. {text}".strip()
        return GuestScriptResult(hardware=self.hardware, status=status, output=str(clean(text)))

    def _checked(self, script: GuestScript) -> bytes:
        """Return the script's bytes. Raises Refused for one that is for another machine, Malformed for a damaged
        one."""
        if script.machine != self.machine or script.hardware != self.hardware:
            raise Refused(
                f"The script is for {script.machine} on {script.hardware}, and this is {self.machine} on "
                f"{self.hardware}.",
                remedy="Check which server answers as the configuration server.",
            )
        try:
            program = base64.b64decode(script.content, validate=True)
        except binascii.Error as error:
            raise Malformed("The script was damaged in transit.", remedy="Request the check again.") from error
        if hashlib.sha256(program).hexdigest() != script.digest:
            raise Malformed("The script differs from the granted one.", remedy="Request the check again.")
        return program


def guest_scripts(settings: Settings) -> Optional[GuestScripts]:
    """Return the receiver of scripts in this machine; None if it is not a recovered machine."""
    hardware = hardware_id()
    if not recovered() or not hardware:
        return None
    try:
        way = WayOut(SCRIPT_PORT, straight=False)
    except OSError as error:
        log.warning("No connection can be forwarded for scripts that check this machine: %s", error)
        return None
    way.start()

    def calls() -> MachineSelf:
        """Return calls with the present certificate, which may have been renewed."""
        proxy = f"http://127.0.0.1:{way.proxy_port}"
        return MachineSelf(Transport.from_credentials(Credentials.load(settings.credentials), proxy=proxy))

    return GuestScripts(machine_of(Credentials.load(settings.credentials)), hardware, calls, way.is_led)
