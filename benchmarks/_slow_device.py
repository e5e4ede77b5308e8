"""A block device with real latency: a loop device over nbdfuse over nbdkit's memory plugin.

A request goes to two processes and back, some tens to hundreds of microseconds, as to a real disk; a loop device over a
file of the page cache answers within a few.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PATIENCE = 20.0


@contextlib.contextmanager
def slow_device(folder: Path, size: int) -> Iterator[Path]:
    """A device of ``size`` bytes, empty; its processes and their files end with the context."""
    socket, image = folder / "slow.sock", folder / "slow.img"
    image.touch()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            subprocess.Popen(["nbdkit", "--foreground", "--unix", str(socket), "memory", str(size)])
        )
        stack.callback(server.terminate)
        _wait(socket.exists, server)
        mounted = stack.enter_context(
            subprocess.Popen(["nbdfuse", "--connections", "4", str(image), "--unix", str(socket)])
        )
        stack.callback(subprocess.run, ["fusermount3", "-u", str(image)], check=True)
        _wait(lambda: image.stat().st_size == size, mounted)
        command = ["losetup", "-f", "--show", "--direct-io=on", str(image)]
        device = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
        stack.callback(subprocess.run, ["losetup", "-d", device], check=True)
        yield Path(device)


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + _PATIENCE
    while not ready():
        if process.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(f"{process.args!r} did not get ready.")
        time.sleep(0.02)
