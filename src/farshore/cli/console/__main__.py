"""``python -m farshore.cli.console TERMINAL``: asks the questions in an order in which each answer can be tested."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from farshore import __version__
from farshore.cli.console.machine import Machine
from farshore.cli.console.network import Network, ask_network, parse_name
from farshore.cli.console.store import Store, ask_store
from farshore.cli.console.terminal import Terminal
from farshore.model.errors import FarshoreError, Refused

T = TypeVar("T")
TERMINALS = ("tty1", "ttyS0")
LOCK = Path("/run/farshore-console.lock")
PASSWORD_LEAST = 8
READY_SECONDS = 1800
"""An emulated machine takes ten minutes for what others do in twenty seconds."""
_FARSHORE = str(Path(sys.executable).parent / "farshore")


def main() -> int:
    """Ask the questions, set the appliance up, and start it."""
    terminal, machine = Terminal(), Machine()
    here = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        terminal.say(f"\nFarshore {__version__}: this appliance is not set up yet.\n")
        terminal.read("Press Enter to begin. ")
        with LOCK.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                terminal.say("It is being set up at another terminal.")
                return 1  # started again until setup is finished
            set_up(terminal, machine)
            machine.finish(here, TERMINALS)
    except (KeyboardInterrupt, EOFError):
        return 1
    except FarshoreError as error:
        terminal.say(f"{error.message} {error.remedy}")
        return 1
    return 0


def set_up(terminal: Terminal, machine: Machine) -> None:
    """Ask for each part, and test the answer until it works; parts from an earlier attempt are set up again. Raises
    Refused if the servers do not start."""
    network, addresses = _until_it_works(terminal, lambda: _network(terminal, machine))
    terminal.say("\nThis machine")
    password = terminal.ask_new_secret("  New password of root", PASSWORD_LEAST)
    ssh = terminal.ask_yes("  Let root log in by SSH with it", default=False)
    machine.set_password(password, ssh=ssh)
    terminal.say()
    _until_it_works(terminal, lambda: _vault(terminal, machine, network, addresses))
    terminal.say("Starting.")
    machine.start()
    _wait(terminal, machine)
    terminal.say()
    _until_it_works(terminal, lambda: _vcenter(terminal, machine))
    terminal.say(f"\nFarshore is ready at https://{network.name} ({', '.join(addresses)}).")
    terminal.say(f"Log in as root. Copy {machine.home}/vault.key and admin.json to a safe place elsewhere now.")


def _until_it_works(terminal: Terminal, part: Callable[[], T]) -> T:
    while True:
        try:
            return part()
        except FarshoreError as error:
            terminal.say(f"  {error.message} {error.remedy}\n")


def _network(terminal: Terminal, machine: Machine) -> tuple[Network, list[str]]:
    wanted = ask_network(terminal)
    addresses = machine.set_network(wanted)
    terminal.say(f"  Addresses: {', '.join(addresses)}")
    return wanted, addresses


def _vault(terminal: Terminal, machine: Machine, network: Network, addresses: list[str]) -> Store:
    store = ask_store(terminal)
    terminal.say("  Testing it.")
    machine.set_up(network, addresses, store)
    return store


def _wait(terminal: Terminal, machine: Machine) -> None:
    """Wait until the servers answer: `farshore status` exits with 0, or with 4 if something is degraded."""
    end = time.monotonic() + READY_SECONDS
    while True:
        done = subprocess.run([_FARSHORE, "status"], env=_surroundings(machine), capture_output=True, check=False)
        if done.returncode in (0, 4):
            return
        why = machine.failed()
        if why or time.monotonic() > end:
            terminal.say(done.stderr.decode(errors="replace").strip()[-600:])
            raise Refused(
                why or "The servers do not answer.", remedy="See journalctl -u farshore. Answer the questions again."
            )
        time.sleep(2)


def _vcenter(terminal: Terminal, machine: Machine) -> None:
    terminal.say("vCenter")
    host = terminal.ask("  Its name or address, with :PORT if it is not 443 (empty: none)", _host)
    if not host:
        return
    name, _, port = host.partition(":")
    user = terminal.ask("  User", _user, "farshore@vsphere.local")
    command = [_FARSHORE, "vmware", "add", "vcenter", name, "--user", user, "--port", port or "443"]
    # This command shows the certificate's fingerprint for confirmation, and asks for the password.
    if subprocess.run(command, env=_surroundings(machine), check=False).returncode:
        raise Refused("The vCenter was not added.", remedy="Answer again, or leave the name empty.")


def _host(text: str) -> str:
    if not text:
        return ""
    name, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise Refused("This is not a port.", remedy="Give a number up to 65535.")
    return f"{parse_name(name)}:{port}" if port else parse_name(name)


def _user(text: str) -> str:
    if not text or text.startswith("-") or not text.isprintable():
        raise Refused("This is not a user.", remedy="Give it as farshore@vsphere.local.")
    return text


def _surroundings(machine: Machine) -> dict[str, str]:
    return {**os.environ, "FARSHORE_HOME": str(machine.home)}


if __name__ == "__main__":
    sys.exit(main())
