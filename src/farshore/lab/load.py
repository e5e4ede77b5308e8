"""The load in the guest: pgbench at a fixed rate, so that an emulated machine keeps up with it.

It runs inside, as a unit of the guest's own systemd; its tables are already in the image.
"""

from __future__ import annotations

from farshore.lab.shell import Shell

UNIT = "lab-pgbench"
DEFAULT_RATE = 5


def start_pgbench(shell: Shell, rate: int = DEFAULT_RATE, clients: int = 2) -> None:
    """Run ``rate`` TPC-B-like transactions a second until the guest ends. Raises Refused, Unreachable."""
    shell.run(
        f"systemd-run --quiet --unit={UNIT} --uid=postgres --working-directory=/tmp "
        f"/usr/lib/postgresql/15/bin/pgbench --no-vacuum --client={clients} --rate={rate} --time=86400 demo"
    )


def stop_pgbench(shell: Shell) -> None:
    """Stop the load; does nothing if it does not run. Raises Unreachable."""
    shell.run(f"systemctl stop {UNIT}.service", check=False)


def pgbench_runs(shell: Shell) -> bool:
    """Return whether the load runs. Raises Unreachable."""
    return shell.run(f"systemctl is-active --quiet {UNIT}.service", check=False).status == 0
