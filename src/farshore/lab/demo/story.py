"""The demo's story, stage by stage, carried out by an operator with the ``farshore`` command.

Protect a Debian machine under load. Check that the vault holds what its disk holds. Lose the whole site in the middle
of the load: the machine, both servers and everything that they kept. Bring the machine up from a second installation
that had only the vault and its key, and rehearse an earlier second beside it. Each stage measures its claims.
"""

from __future__ import annotations

import datetime
import itertools
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from farshore.lab.command import HOST_SEEN_FROM_GUEST
from farshore.lab.counter import Acknowledged, Counter, Database, judge, newest_by_its_own_clock
from farshore.lab.demo.display import Display, Stage
from farshore.lab.demo.operator import Operator
from farshore.lab.demo.recovered import Recovered
from farshore.lab.demo.sameness import Range, compare, snapshot_hashes
from farshore.lab.demo.site import burn
from farshore.lab.disk_layout import Layout
from farshore.lab.guest import Guest
from farshore.lab.image import GuestImage, ensure_image
from farshore.lab.load import start_pgbench
from farshore.lab.ports import free_ports
from farshore.lab.recipe import GuestRecipe
from farshore.model.errors import Refused, Unreachable

NAME = "onprem"
PROTECT_SECONDS = 900.0
POLL_SECONDS = 3.0
"""A check costs a second of processor time, which the guest needs too."""
QUIET_POINT = "quiet"
COPY_PERCENT = 60
FREEZE_LIMIT = 300
"""Seconds after which the guest thaws itself, in case the demo cannot thaw it."""
SETTLE_SECONDS = 60.0
"""Time in which the accounts of a frozen disk arrive: the agent counts each second and reports every other."""
RPO_SECONDS = 15.0
"""The maximum age of the recovered data, by the counter's own rows. Points come every five seconds."""
LOAD_SECONDS = 12.0
EARLIER_SECONDS = 8.0
_EVIDENCE = ("consoles", "screens")
"""Folders that remain with a failover's record."""


class Story:
    """One demo in ``folder``, which ``clean_up`` does not delete: the caller does."""

    def __init__(self, folder: Path, display: Display) -> None:
        self._folder = folder
        self._display = display
        self._operator = Operator(folder / "home")
        self._vault, self._safe_key = f"file://{folder / 'vault'}", folder / "safe" / "vault.key"
        self._recipe = GuestRecipe()
        self._guest: Guest | None = None
        self._counter: Counter | None = None
        self._lost = 0.0

    def tell(self) -> None:
        """Run everything, in order. Raises errors; findings that are merely bad go into the table."""
        image = self._prepare()
        guest = self._power_on(image)
        self._protect(guest)
        self._points()
        self._compare_at_rest(guest)
        record = self._disaster(guest)
        self._lost = time.monotonic()
        self._adopt()
        earlier = record[-1].time - int(EARLIER_SECONDS * 1e9)
        self.fail_over(image, record)
        self.rehearse(image, record, earlier)

    def clean_up(self) -> None:
        """Stop everything that this demo, or an earlier one in the same folder, started."""
        if self._counter is not None:
            self._counter.stop()
        if self._guest is not None:
            self._guest.kill()
        homes = [home for home in (self._folder / "home", self._folder / "far") if (home / "admin.json").exists()]
        if homes:
            subprocess.run(["pkill", "-KILL", "-f", str(self._folder / "guest")], check=False)
        for home in homes:
            try:  # first: it restarts recovered machines that die
                Operator(home).run("down", seconds=60)
            except (Refused, subprocess.TimeoutExpired):
                subprocess.run(["pkill", "-KILL", "-f", str(home)], check=False)
            subprocess.run(["pkill", "-KILL", "-f", f"qemu-system.*{home}"], check=False)
            subprocess.run(["pkill", "-KILL", "-f", f"farshore.export.*{home}"], check=False)

    def _prepare(self) -> GuestImage:
        with self._display.stage("A stock Debian 12 guest with PostgreSQL") as stage:
            stage.tell("from the cache, or built now (two minutes)")
            image = ensure_image(self._recipe)
            stage.tell("")
        with self._display.stage("farshore up: servers, vault, certificates") as stage:
            self._up("--vault", self._vault)
            self._safe_key.parent.mkdir(mode=0o700)
            shutil.copy2(self._operator.home / "vault.key", self._safe_key)
            mode = (self._operator.home / "admin.json").stat().st_mode & 0o777
            stage.tell(f"https://127.0.0.1:{self._port}, credentials mode {mode:04o}")
            self._display.find("Administrator's credentials", f"file mode {mode:04o}", good=mode == 0o600)
        return image

    def _up(self, *options: str) -> None:
        """Start the servers at their own ports."""
        self._port, data_port = free_ports(2)
        self._operator.run(
            *("up", "--detach", "--port", str(self._port), "--process-server-port", str(data_port)),
            *("--advertise", HOST_SEEN_FROM_GUEST, "--advertise", "127.0.0.1", *options),
        )

    def _power_on(self, image: GuestImage) -> Guest:
        with self._display.stage("The on-premises machine starts") as stage:
            stage.tell("finding out whether this host can run it by KVM")
            guest = self._guest = Guest(image, self._folder / "guest")
            stage.tell(f"by {guest.accelerator.name}")
            guest.start()
            guest.wait_until_up()
            guest.wait_for_database()
            database = Database(guest.ports.database, image.database_password())
            self._counter = Counter(database, self._folder / "acknowledged.jsonl")
            self._counter.start()
            start_pgbench(guest.shell)
            stage.tell(f"by {guest.accelerator.name}; pgbench and a commit every 100 ms run in it")
        return guest

    def _protect(self, guest: Guest) -> None:
        with self._display.stage("Push installation over SSH") as stage:
            fingerprint = subprocess.run(
                ["ssh-keygen", "-lf", str(guest.image.host_key)], capture_output=True, text=True, check=True
            ).stdout.split()[1]
            self._operator.ask(
                *("machine", "add", "127.0.0.1", "--port", str(guest.ports.ssh), "--user", "root", "--name", NAME),
                *("--ssh-key", str(guest.image.ssh_key), "--host-key", fingerprint),
                *("--server-url", f"https://{HOST_SEEN_FROM_GUEST}:{self._port}"),
            )
            stage.tell("no compiler, pip or internet there; enrolled by a one-time token")
            # By default a copy takes a tenth of busy processors. Emulated ones are some twenty times slower than
            # hardware, and pgbench uses all of them.
            self._operator.run("machine", "protect", NAME, "--cpu-percent", str(COPY_PERCENT))
        with self._display.stage("Initial replication of the whole boot disk") as stage:
            began = time.monotonic()
            machine = self._wait_until_protected(stage, began)
            total = sum(disk["size"] for disk in machine["description"]["disks"])
            took = time.monotonic() - began
            stage.tell(f"{total / 2**30:.1f} GiB while the load ran")
            self._display.find("Initial replication", f"{total / 2**30:.1f} GiB in {took:.0f} s, load running")

    def _wait_until_protected(self, stage: Stage, began: float) -> Any:
        while True:
            machine = self._operator.ask("machine", "show", NAME)
            if machine["state"] == "protected":
                return machine
            progress = machine.get("progress")
            if progress and progress["total"]:
                share = progress["done"] / progress["total"]
                stage.tell(f"{progress['done'] >> 20} of {progress['total'] >> 20} MiB", share)
            if time.monotonic() - began > PROTECT_SECONDS:
                raise Unreachable(
                    f"{NAME} is {machine['state']} after {PROTECT_SECONDS:.0f} s.",
                    remedy="Run the demo with --keep, and read journalctl -u farshore-mobility in the guest.",
                )
            time.sleep(POLL_SECONDS)

    def _points(self) -> None:
        with self._display.stage("Recovery points appear") as stage:
            time.sleep(LOAD_SECONDS)
            points = self._operator.ask("point", "list", NAME, "--limit", "50")
            times = sorted(_seconds(point["time"]) for point in points)
            gaps = [after - before for before, after in itertools.pairwise(times)]
            widest = max(gaps, default=0.0)
            stage.tell(f"{len(points)} so far")
            self._display.find("Recovery points", f"{len(points)}, at most {widest:.1f} s apart", good=len(points) >= 2)
        self._display.say(self._operator.run("point", "list", NAME, "--limit", "5"))

    def _compare_at_rest(self, guest: Guest) -> None:
        """Freeze the guest's file system, note the moment, and compare every block with the vault's."""
        with self._display.stage("Every block: the vault against the source disk") as stage:
            left_out = self._left_out(guest)
            stage.tell("file system frozen")
            # If anything goes wrong meanwhile, the guest thaws by itself.
            thaw = f"setsid sh -c 'sleep {FREEZE_LIMIT}; fsfreeze -u /' >/dev/null 2>&1 </dev/null &"
            guest.shell.run(f"fsfreeze -f / && {{ {thaw} }}")
            try:
                _wait_until_quiet(guest.disk)
                self._operator.ask("point", "create", NAME, "--name", QUIET_POINT)
                source, size = snapshot_hashes(guest.disk)
                accounts = self._settled_accounts(stage)
            finally:
                guest.shell.run("fsfreeze -u /", check=False)
            stage.tell("restoring the point with no server's help")
            restored = self._folder / "restored.raw"
            disk = self._operator.ask("machine", "show", NAME)["description"]["disks"][0]["number"]
            self._operator.run(
                *("vault", "restore", "--vault", self._vault, "--key", str(self._safe_key)),
                *("--machine", NAME, "--point", QUIET_POINT, "--disk", str(disk), "--output", str(restored)),
            )
            replica, _ = snapshot_hashes(restored)
            restored.unlink()
            outcome = compare(source, replica, left_out)
            stage.tell(f"{outcome.compared} of {outcome.blocks} blocks ({size >> 20} MiB)")
        self._display.find("Bytes seen, captured, counted by the kernel", _told(accounts), _agree(accounts))
        good = not outcome.differing
        result = f"{outcome.compared} equal ({outcome.digest[:16]}…)" if good else f"differ: {outcome.differing}"
        self._display.find("Blocks at the frozen point (swap, .hrl left out)", result, good)

    def _settled_accounts(self, stage: Stage) -> list[Any]:
        """The accounts of the frozen disk, as the agent reports them from now on; as they are when time is up."""
        stage.tell("comparing with the kernel's count of sectors written")
        frozen, give_up = time.time(), time.monotonic() + SETTLE_SECONDS
        while True:
            machine = self._operator.ask("machine", "show", NAME)
            accounts: list[Any] = machine["accounts"] if _seconds(machine["last_seen"]) > frozen else []
            if _agree(accounts) or time.monotonic() > give_up:
                return accounts
            time.sleep(POLL_SECONDS)

    def _left_out(self, guest: Guest) -> list[Range]:
        """Bytes of the disk that are not replicated on purpose: swap, and the agent's own spill file."""
        layout = Layout(self._recipe.disk_bytes, self._recipe.swap_bytes)
        swap = (layout.swap.start, layout.swap.start + layout.swap.length)
        listed = guest.shell.run("filefrag -b4096 -v /var/lib/farshore-mobility/*.hrl 2>/dev/null || true").output
        return [swap, *_extents(listed, layout.root.start)]

    def _disaster(self, guest: Guest) -> tuple[Acknowledged, ...]:
        counter = self._counter
        if counter is None:
            raise Refused("The counter is not running.", remedy="Run the demo from its beginning.")
        time.sleep(LOAD_SECONDS)
        with self._display.stage("Disaster: the site is lost under load") as stage:
            guest.kill()
            burn(self._operator.home)
            counter.stop()
            record = counter.acknowledged()
            stage.tell(f"machine and both servers by SIGKILL, their folder deleted; {len(record)} commits")
        return record

    def _adopt(self) -> None:
        """A second installation, which has the vault and the key and nothing else."""
        with self._display.stage("farshore up --adopt-vault, elsewhere") as stage:
            self._operator = Operator(self._folder / "far")
            self._up("--adopt-vault", self._vault, "--key", str(self._safe_key))
            (machine,) = self._operator.ask("machine", "list")
            stage.tell(f"https://127.0.0.1:{self._port} knows {machine['name']}, from the vault and its key alone")

    def fail_over(self, image: GuestImage, record: tuple[Acknowledged, ...]) -> None:
        """Bring production up, and judge what it holds."""
        ssh, database = free_ports(2)
        machine = Recovered(image, ssh, database)
        with self._display.stage("farshore failover run: boot from the vault over NBD") as stage:
            requested = time.monotonic()
            job = self._in_background(
                "failover", "run", NAME, "--yes", "--forward", f"{ssh}:22", "--forward", f"{database}:5432"
            )
            found = machine.wait_for_rows()
            rto, since_loss = time.monotonic() - requested, time.monotonic() - self._lost
            job.join()
            stage.tell(f"PostgreSQL answered after {rto:.1f} s")
        self.judge_rows(record, found, rto, since_loss)
        self.judge_databases(machine)

    def judge_rows(self, record: tuple[Acknowledged, ...], found: list[int], rto: float, since_loss: float) -> None:
        """Report which acknowledged commits are there, and how long it took, in seconds."""
        verdict = judge(record, found)
        rpo = f"{verdict.rpo:.2f} s ({verdict.lost} rows)"
        self._display.find("RPO: last acknowledged commit lost", rpo, good=verdict.rpo <= RPO_SECONDS)
        self._display.find("RTO: request to PostgreSQL answering", f"{rto:.1f} s")
        self._display.find("RTO: loss of the site to PostgreSQL answering", f"{since_loss:.1f} s")
        self._display.find(
            "The counter's rows", f"{verdict.recovered}, {len(verdict.holes)} missing", good=not verdict.holes
        )

    def judge_databases(self, machine: Recovered) -> None:
        """Let PostgreSQL's own tool check every database."""
        with self._display.stage("pg_amcheck of every recovered database") as stage:
            checked = machine.check_databases()
            stage.tell(", ".join(checked.databases))
        clean = f"clean: {', '.join(checked.databases)}"
        self._display.find("pg_amcheck --all --heapallindexed", checked.complaint or clean, not checked.complaint)

    def rehearse(self, image: GuestImage, record: tuple[Acknowledged, ...], moment: int) -> None:
        """Bring up the machine as it was at ``moment`` (ns), isolated, and delete it completely."""
        ssh, database = free_ports(2)
        machine = Recovered(image, ssh, database)
        text = datetime.datetime.fromtimestamp(moment / 1e9, datetime.UTC).isoformat().replace("+00:00", "Z")
        with self._display.stage(f"Test failover to {EARLIER_SECONDS:.0f} s earlier, isolated") as stage:
            requested = time.monotonic()
            ports = ("--forward", f"{ssh}:22", "--forward", f"{database}:5432")
            job = self._in_background("failover", "test", NAME, "--time", text, *ports)
            found = machine.wait_for_rows()
            rto = time.monotonic() - requested
            job.join()
            isolated = not machine.reaches_host(self._port)
            stage.tell(f"PostgreSQL answered after {rto:.1f} s")
        self.during_rehearsal(machine)
        verdict = judge(record, found)
        # Points have the machine's own time, and so do the rows; an emulated machine's clock is not the host's.
        late = newest_by_its_own_clock(machine.database) - moment / 1e9
        self._display.find("Test failover: newest row against the second asked for", f"{late:+.2f} s", -5.0 < late <= 0)
        self._display.find("Test failover: rows missing", str(len(verdict.holes)), good=not verdict.holes)
        self._display.find("Test failover: isolated from this host", "yes" if isolated else "no", good=isolated)
        with self._display.stage("Cleaning the test up") as stage:
            tests = [one for one in self._operator.ask("failover", "list") if one["kind"] == "test"]
            self._operator.ask("failover", "cleanup", tests[0]["id"], "--yes")
            left = self._remains(tests[0]["id"])
            stage.tell("nothing left behind" if not left else f"left behind: {left}")
        self._display.find("Test failover: left behind after clean-up", "nothing" if not left else str(left), not left)

    def during_rehearsal(self, machine: Recovered) -> None:
        """Do nothing. Tests override this to use the rehearsed machine before it is cleaned up."""

    def _remains(self, failover: str) -> list[str]:
        """Return processes and files that still have the failover's id, except its evidence: that remains with its
        record."""
        processes = subprocess.run(["pgrep", "-af", failover], capture_output=True, text=True, check=False).stdout
        files = [str(path) for path in self._operator.home.rglob(f"*{failover}*") if path.parent.name not in _EVIDENCE]
        return [line for line in processes.splitlines() if "pgrep" not in line] + files

    def _in_background(self, *words: str) -> _Answer:
        return _Answer(self._operator, words)


class _Answer:
    """A command that runs while its effect is watched; ``join`` raises its error."""

    def __init__(self, operator: Operator, words: tuple[str, ...]) -> None:
        self._operator = operator
        self._words = words
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for it to end."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            self._operator.ask(*self._words)
        except Exception as error:  # noqa: BLE001 - join raises it
            self._error = error


def _seconds(moment: str | None) -> float:
    """Return a time of the command line's JSON as seconds since 1970; 0 for none."""
    return datetime.datetime.fromisoformat(moment).timestamp() if moment else 0.0


def _agree(accounts: list[Any]) -> bool:
    """Return whether every write that the probe saw is accounted for, and the kernel counted the same on every disk."""
    return bool(accounts) and all(
        account["verdict"] == "ok" and account["seen"] == account["captured"] + account["bitmap"] + account["excluded"]
        for account in accounts
    )


def _told(accounts: list[Any]) -> str:
    """Return the accounts for the closing table."""
    written = sum(account["seen"] for account in accounts)
    states = ", ".join(sorted({account["verdict"] for account in accounts})) or "not reported"
    return f"{states} over {written >> 20} MiB" if _agree(accounts) else f"{states}: {accounts}"


def _wait_until_quiet(disk: Path) -> None:
    """Return when the image has not been written to for two seconds; the guest's kernel may still be settling."""
    quiet_since, last = time.monotonic(), disk.stat().st_mtime_ns
    end = quiet_since + 120
    while time.monotonic() - quiet_since < 2:
        time.sleep(0.2)
        now = disk.stat().st_mtime_ns
        if now != last:
            quiet_since, last = time.monotonic(), now
        if time.monotonic() > end:
            raise Unreachable(
                "The frozen disk is still being written to.", remedy="Find out what writes outside of '/'."
            )


def _extents(listed: str, start: int) -> list[Range]:
    """Return byte ranges on the whole disk from ``filefrag -b4096 -v``, for a file system that begins at byte
    ``start``."""
    found = []
    for line in listed.splitlines():
        columns = line.split(":")
        if len(columns) >= 4 and columns[0].strip().isdecimal():
            first, last = (int(number) for number in columns[2].replace(" ", "").split(".."))
            found.append((start + first * 4096, start + (last + 1) * 4096))
    return found
