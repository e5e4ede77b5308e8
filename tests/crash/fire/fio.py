"""fio with verification: every 4 KiB block of its files carries a header and a checksum from before protection on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

FILE = "fio.data"
_BYTES = 24 << 20
_BURST = 32
"""Blocks between two rests: held to a rate by ``--rate``, fio spins on its processor until the next block is due."""
_COMMON = ["fio", "--name=fire", "--bs=4k", f"--size={_BYTES}", "--ioengine=psync", "--direct=1", "--thread"]
_COMMON += ["--verify=crc32c", "--verify_state_save=0", "--output-format=terse"]


class Fio:
    """Random writes over a file of each folder. A seed decides where they go and what they say."""

    def __init__(self, folders: list[Path], seed: int, *, mebibytes_a_second: float = 1.5) -> None:
        self._folders = folders
        self._rest = int(_BURST * 4096 * 1e6 / (mebibytes_a_second * (1 << 20)))
        self._processes: list[subprocess.Popen[bytes]] = []
        for folder in folders:
            command = [*_COMMON, f"--filename={folder / FILE}", "--rw=write", "--do_verify=0", "--end_fsync=1"]
            command.append(f"--randseed={seed}")
            subprocess.run(command, check=True, capture_output=True)

    def start(self, seed: int) -> None:
        """Write for ever, from the seed's first write on."""
        self.stop()
        for folder in self._folders:
            command = [*_COMMON, f"--filename={folder / FILE}", "--rw=randwrite", "--do_verify=0", "--norandommap=1"]
            command += ["--time_based", "--runtime=100000", f"--randseed={seed}"]
            command += [f"--thinktime={self._rest}", f"--thinktime_blocks={_BURST}"]
            self._processes.append(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            )

    def signal(self, number: int) -> None:
        """SIGSTOP and SIGCONT hold it and let it go on."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def stop(self) -> None:
        """End it."""
        self.signal(signal.SIGKILL)
        for process in self._processes:
            process.wait(120)
        self._processes.clear()


def judge(folder: Path) -> list[str]:
    """What fio finds wrong with the recovered file in ``folder``."""
    command = [*_COMMON, f"--filename={folder / FILE}", "--rw=read", "--verify_fatal=1", "--output=/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/tmp")
    if done.returncode == 0:
        return []
    return [f"fio on {folder.name}: {(done.stderr + done.stdout)[:300]}"]
