"""Start the process of a bubble if there is none, and send it requests.

A bubble is found by its socket in the site's folder. Whether it runs is asked at that socket, never remembered.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farshore.model.errors import Refused, TryLater
from farshore.model.machine import NicDescription
from farshore.sites.bubble.addresses import card_address
from farshore.sites.folder import lock

_ADDRESS = "127.0.0.1"
_START_SECONDS, _ANSWER_SECONDS, _POLL_SECONDS = 30.0, 15.0, 0.05
_TUN = "/dev/net/tun"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CAPABILITIES = "-all,+net_admin"
_End = socket.socket


@dataclass(frozen=True)
class BubbleAddress:
    """The bubble ``name`` of the site that keeps its bubbles below ``folder``."""

    folder: Path
    name: str

    @property
    def socket(self) -> Path:
        return self.folder / f"{self.name}.sock"

    def join(self, failover: str, cards: Sequence[NicDescription], forward: Mapping[int, int]) -> list[int]:
        """Make a machine a member, in place of an earlier membership. Return the ends of its cards, which the caller
        must close: a machine leaves when all copies of them are closed. ``forward`` maps ports of this host to ports of
        the guest.

        Raises Refused for an address that another member has, TryLater for a port that is in use."""
        with contextlib.ExitStack() as held:
            pairs = [socket.socketpair() for _ in cards]
            for near, far in pairs:
                held.enter_context(near)
                held.enter_context(far)
            self._enter(failover, cards, forward, [near for near, _ in pairs], awaited=False)
            return [far.detach() for _, far in pairs]

    def join_at(
        self, failover: str, cards: Sequence[NicDescription], forward: Mapping[int, int], sockets: Sequence[Path]
    ) -> None:
        """Make a machine a member whose process another program starts. Each of its cards must connect to one of
        ``sockets`` within a minute, otherwise the machine leaves."""
        with contextlib.ExitStack() as held:
            ends = []
            for path in sockets:
                path.unlink(missing_ok=True)
                ends.append(held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)))
                ends[-1].bind(str(path))
                path.chmod(0o600)
                ends[-1].listen(1)
                ends[-1].setblocking(False)
            self._enter(failover, cards, forward, ends, awaited=True)

    def leave(self, failover: str) -> None:
        """End the membership of a machine that did not start."""
        with contextlib.suppress(OSError, TryLater):
            self._ask({"do": "leave", "failover": failover})

    def _enter(
        self,
        failover: str,
        cards: Sequence[NicDescription],
        forward: Mapping[int, int],
        ends: Sequence[_End],
        *,
        awaited: bool,
    ) -> None:
        self._ensure()
        self._ask({"do": "leave", "failover": failover})
        with contextlib.ExitStack() as held:
            listeners = [held.enter_context(_listening(port)) for port in forward]
            message = {
                "do": "join",
                "failover": failover,
                "cards": [{"mac": nic.mac, "address": card_address(nic)} for nic in cards],
                "forward": list(forward.values()),
                "awaited": awaited,
            }
            answer = self._ask(message, [one.fileno() for one in (*ends, *listeners)])
        if answer.get("in_use"):
            raise Refused(
                f"The machine cannot join the test network {self.name}: {answer['error']}.",
                remedy="Clean up that test, or choose another name: farshore failover test --network NAME",
            )
        if "error" in answer:
            raise TryLater(f"The test network {self.name} failed: {answer['error']}.", remedy="Repeat the command.")

    def answers(self, failover: str, port: int) -> bool:
        """Return whether the guest accepts a connection at its ``port``."""
        try:
            return bool(self._ask({"do": "answers", "failover": failover, "port": port}).get("answers"))
        except (OSError, TryLater):
            return False

    def members(self) -> Mapping[str, Sequence[str]]:
        """Return the addresses of the members, by failover; empty if there is no such bubble."""
        try:
            return dict(self._ask({"do": "status"})["members"])
        except (OSError, TryLater, KeyError):
            return {}

    def tidy(self) -> None:
        """Remove what a killed bubble left behind."""
        held = lock(self._lock, os.O_CREAT) if self.folder.exists() else None
        if held is None:
            return
        try:
            if not self._lives():
                self.socket.unlink(missing_ok=True)
                self._lock.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # other bubbles exist
                    self.folder.rmdir()
        finally:
            os.close(held)

    @property
    def _lock(self) -> Path:
        return self.folder / f"{self.name}.lock"

    def _ensure(self) -> None:
        """Start the bubble's process if it does not run. Raises Refused if this host cannot have such a network,
        TryLater."""
        give_up = time.monotonic() + _START_SECONDS
        while not self._lives():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            held = lock(self._lock, os.O_CREAT)
            if held is not None:
                try:
                    if not self._lives():
                        self.socket.unlink(missing_ok=True)
                        self._start(give_up)
                    return
                finally:
                    os.close(held)
            if time.monotonic() > give_up:
                raise TryLater(f"The test network {self.name} does not answer.", remedy="Repeat the command.")
            time.sleep(_POLL_SECONDS)

    def _start(self, give_up: float) -> None:
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                _command(self.socket),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # it outlives the server, as its members do
                cwd="/",
                env={"PATH": _PATH, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            while not self._lives():
                if process.poll() is not None:
                    said.seek(0)
                    lines = said.read().decode("utf-8", "replace").strip().splitlines() or ["it gave no reason"]
                    raise Refused(
                        f"This host cannot create a test network: {lines[-1]}",
                        remedy="It needs root or user namespaces, the module tun, and the commands unshare, "
                        "setpriv and ip. Or test each machine alone, without --network.",
                    )
                if time.monotonic() > give_up:
                    process.kill()
                    process.wait()
                    raise TryLater(f"The test network {self.name} did not start.", remedy="Repeat the command.")
                time.sleep(_POLL_SECONDS)
        threading.Thread(target=process.wait, name=f"bubble {self.name}", daemon=True).start()

    def _lives(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            try:
                peer.connect(str(self.socket))
            except OSError:
                return False
            return True

    def _ask(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(_ANSWER_SECONDS)
            peer.connect(str(self.socket))
            socket.send_fds(peer, [json.dumps(message).encode()], list(descriptors))
            with peer.makefile("rb") as answer:
                line = answer.readline(1 << 20)
        try:
            return dict(json.loads(line))
        except ValueError as error:
            raise TryLater(
                f"The test network {self.name} ended during the request.", remedy="Repeat the command."
            ) from error


def _command(path: Path) -> list[str]:
    own = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--user", "--map-root-user"]
    bounds = [f"--bounding-set={_CAPABILITIES}", f"--inh-caps={_CAPABILITIES}", "--no-new-privs"]
    program = [sys.executable, "-m", "farshore.sites.bubble.program", f"--socket={path}"]
    # Opened within the namespace to which this card will belong.
    return [
        *own,
        "--",
        "sh",
        "-c",
        f'exec "$@" 3<>{_TUN}',
        "sh",
        shutil.which("setpriv") or "setpriv",
        *bounds,
        *program,
    ]


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server((_ADDRESS, port))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise TryLater(
            f"Port {port} of this host cannot be forwarded to the machine: another program uses it.",
            remedy=f"Find the program (ss -ltnp sport = :{port}) and stop it, or fail over with another port.",
        ) from error
    with listener:
        yield listener
