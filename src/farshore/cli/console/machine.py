"""What the console changes on the appliance: configuration files of Debian's components, and systemd's units."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from farshore.cli.console.network import Network
from farshore.cli.console.store import Store
from farshore.model.errors import Refused

IS_SET_UP = "etc/farshore/appliance-is-set-up"
"""Its presence keeps the console's units from starting."""
_SETUP = "farshore.configuration_server.setup"
_ONLINE = "/lib/systemd/systemd-networkd-wait-online"
_ONLINE_SECONDS = 60


@dataclass(frozen=True)
class Machine:
    """The appliance. ``root`` is the root of its file system, and ``home`` the installation's folder."""

    root: Path = Path("/")
    home: Path = Path("/var/lib/farshore")

    def set_network(self, network: Network) -> list[str]:
        """Apply the network settings, and return the machine's addresses. Raises Refused if it gets none."""
        self._write("etc/systemd/network/10-farshore.network", network.unit())
        self._write("etc/hosts", network.hosts())
        self.run("hostnamectl", "hostname", network.name)
        self.run("networkctl", "reload")
        for link in self.links():
            self.run("networkctl", "reconfigure", link)
        self.run(_ONLINE, "--any", f"--timeout={_ONLINE_SECONDS}")
        return self.addresses()

    def links(self) -> list[str]:
        """Return the names of the network cards."""
        shown = self.run("ip", "-brief", "link", "show")
        return [line.split()[0].partition("@")[0] for line in shown.splitlines() if not line.startswith("lo ")]

    def addresses(self) -> list[str]:
        """Return the global addresses of all cards."""
        shown = self.run("ip", "-brief", "address", "show", "scope", "global")
        return [word.partition("/")[0] for line in shown.splitlines() for word in line.split()[2:] if "/" in word]

    def set_password(self, password: str, *, ssh: bool) -> None:
        """Let root log in at the console, and by SSH if ``ssh``."""
        self.run("chpasswd", typed=f"root:{password}\n")
        if ssh:
            self.run("ssh-keygen", "-A")
            self.run("systemctl", "enable", "--now", "ssh.service")

    def set_up(self, network: Network, addresses: Sequence[str], store: Store) -> None:
        """Create the installation with its vault. Raises Refused with the obstacle; it can be repeated."""
        self.run("systemctl", "stop", "farshore.service")
        self._write("etc/farshore/store.env", store.environment_file(), mode=0o600)
        command = [sys.executable, "-m", _SETUP, "--home", str(self.home), "--check-ports"]
        command += [part for name in (network.name, *addresses) for part in ("--advertise", name)]
        command += ["--vault-url", store.url] if store.url else []
        self.run(*command, environment=store.environment)

    def start(self) -> None:
        """Have systemd run everything, now and at each start of the machine. Raises Refused."""
        self.run("systemctl", "enable", "--now", "farshore.service")

    def failed(self) -> str:
        """Return why the service does not run, or "" if it runs."""
        state = self.run("systemctl", "show", "--property=ActiveState,Result,NRestarts", "farshore.service")
        values = dict(line.partition("=")[::2] for line in state.splitlines())
        good = values.get("ActiveState") in ("active", "activating") and values.get("NRestarts", "0") == "0"
        return "" if good else f"farshore.service is {values.get('ActiveState')} ({values.get('Result')})"

    def finish(self, here: str, terminals: Sequence[str]) -> None:
        """Record that the appliance is set up, and end the questions on the other terminals."""
        self._write(IS_SET_UP, "")
        others = [f"farshore-console@{one}.service" for one in terminals if one != here]
        self.run("systemctl", "stop", "--no-block", *others)

    def run(self, *command: str, typed: str = "", environment: Mapping[str, str] | None = None) -> str:
        """Return the output of a command. Raises Refused with the end of its error output."""
        surroundings = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **(environment or {})}
        try:
            done = subprocess.run(
                command, input=typed, capture_output=True, text=True, check=False, env=surroundings, timeout=900
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Refused(f"{command[0]} does not run: {error}", remedy="Try again.") from error
        if done.returncode:
            words = (done.stderr or done.stdout).strip()[-600:] or f"exit status {done.returncode}"
            raise Refused(f"{Path(command[0]).name}: {words}", remedy="Answer again.")
        return done.stdout

    def _write(self, name: str, content: str, mode: int = 0o644) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        new.touch(mode=mode)
        new.write_text(content)
        new.replace(path)
