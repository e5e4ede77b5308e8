"""Use libvirt through its own command, virsh: no library has to be built on the server, and each question is one
process.

Output is read in the C locale. Whether a domain exists is read from the list of all domains, never from an error text.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from farshore.model.errors import Refused, TryLater

_SECONDS = 60.0


@dataclass(frozen=True)
class Failed(Exception):
    """virsh ended with an error, in its own words."""

    said: str


@dataclass(frozen=True)
class Virsh:
    """Runs virsh against the libvirtd at ``uri``."""

    uri: str

    def ask(self, *words: str, given: str = "") -> str:
        """Run one command of virsh and return what it printed. Raises Failed, Refused if virsh is not installed,
        TryLater for a libvirtd that does not answer."""
        try:
            done = subprocess.run(
                ["virsh", "--quiet", "--connect", self.uri, *words],
                input=given,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError as error:
            raise Refused("virsh is not installed here.", remedy="Install the package libvirt-clients.") from error
        except subprocess.TimeoutExpired as error:
            raise TryLater(
                f"libvirtd has not answered within {_SECONDS:.0f} s.", remedy="See: systemctl status libvirtd"
            ) from error
        if done.returncode == 0:
            return done.stdout.strip()
        said = " ".join(line.removeprefix("error: ") for line in done.stderr.strip().splitlines()) or "no reason given"
        if "failed to connect to the hypervisor" in said:
            raise TryLater(f"libvirtd does not answer: {said}", remedy="Start it: systemctl start libvirtd")
        raise Failed(said)

    def told(self, *words: str, given: str = "") -> str:
        """Run one command, and treat an error as the hypervisor's refusal. Raises Refused, TryLater."""
        try:
            return self.ask(*words, given=given)
        except Failed as error:
            remedy = "Remove the cause that the message names, then repeat."
            raise Refused(f"libvirt refuses: {error.said}", remedy=remedy) from error

    def table(self, *words: str) -> Mapping[str, str]:
        """Run one command whose output has the form ``name : value``."""
        rows = (line.partition(":") for line in self.told(*words).splitlines())
        return {name.strip(): value.strip() for name, _, value in rows}
