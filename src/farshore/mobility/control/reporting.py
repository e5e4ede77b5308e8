"""The agent's report about itself: the heartbeat, and the same as a file for ``farshore-mobility status``."""

from __future__ import annotations

import logging
import sys
from typing import Dict, List, Mapping, Optional

from farshore import __version__
from farshore.api_types.body import clean
from farshore.api_types.clocks import ClockStanding
from farshore.api_types.machines import MOST_WARNINGS, DiskAccount, Heartbeat, ProofStanding
from farshore.mobility.capture.accounting import State, Verdict
from farshore.mobility.capture.capture import Capture
from farshore.mobility.capture.kernel import read_stat
from farshore.mobility.checks.lookout import Lookout
from farshore.mobility.rounds.fallback import Fallback
from farshore.mobility.rounds.round_run import RoundRun
from farshore.mobility.stream.epoch_run import EpochRun
from farshore.mobility.stream.replication import Replication
from farshore.mobility.upgrade.releases import Releases
from farshore.model.clock_steps import ClockSteps
from farshore.model.errors import FarshoreError, NotFound
from farshore.model.identifiers import DiskNumber
from farshore.model.ports import Clock
from farshore.model.states import CaptureMode

log = logging.getLogger(__name__)


class Reporter:
    """Builds heartbeats. The kernel's counts are reported from the moment at which the capture began."""

    def __init__(self, run: str, replication: Replication, clock: Clock, lookout: Lookout) -> None:
        self._run = run
        self._replication = replication
        self._clock = clock
        self._lookout = lookout
        self._differences: Optional[int] = None
        """Those that the server has."""
        here = Releases.here()
        self._release = "" if here is None else here.release
        self._steps = ClockSteps(clock)
        self._capture_started = 0
        self._kernel_base: Dict[DiskNumber, int] = {}

    def heartbeat(self) -> Heartbeat:
        """Return the agent's present state."""
        replication = self._replication
        run, capture = replication.current, replication.capture
        beat = Heartbeat(
            run=self._run,
            version=__version__,
            release=self._release,
            python=f"{sys.version_info[0]}.{sys.version_info[1]}",
            hears_commands=True,
            warnings=self._warnings()[:MOST_WARNINGS],
            findings=self._lookout.untold(),
            clock=self._clock_standing(),
            proof=self._proof(),
        )
        if capture is not None:
            try:
                beat = beat.model_copy(update={**self._mode(capture), "accounts": self._accounts(capture)})
            except FarshoreError as error:  # a report without accounts is better than none
                log.warning("The capture did not report its state: %s", error)
        if replication.fallback is not None:
            beat = beat.model_copy(update=self._fallback(replication.fallback))
        if run is None:
            return beat
        return beat.model_copy(
            update={
                "epoch": run.grant.epoch,
                "kind": run.grant.kind,
                "consistent": run.consistent,
                "captured_sequence": run.captured,
                "acknowledged_sequence": run.acknowledged,
                "acknowledged_time": run.acknowledged_time,
                "spilled_bytes": run.spilled,
                "lag": run.lag(),
                "progress": run.progress(),
            }
        )

    def _clock_standing(self) -> ClockStanding:
        step = self._steps.look()
        if step:
            log.warning("The machine's clock was set.", extra={"fields": {"seconds": round(step / 1e9, 3)}})
        last = self._steps.last
        if last is None:
            return ClockStanding()
        age = self._clock.monotonic() - last.seen
        return ClockStanding(steps=last.number, last=last.nanoseconds / 1e9, age=age)

    def answered(self, beat: Heartbeat) -> None:
        """Record that the server has this heartbeat."""
        self._lookout.told(beat.findings)
        if beat.proof is not None:
            self._differences = beat.proof.differences

    def _proof(self) -> ProofStanding:
        """Return the state of the proofs. A chunk that was found to differ is proven again within seconds, but at least
        one answered heartbeat must report it: the machine's alert and state depend on that."""
        standing = self._replication.proving.standing()
        if self._differences is None:
            self._differences = standing.differences
        since = standing.differences - self._differences
        return standing.model_copy(update={"differing": max(standing.differing, since)})

    def _fallback(self, fallback: Fallback) -> Dict[str, object]:
        run = self._replication.current
        every = run.point_every if isinstance(run, RoundRun) else fallback.every
        return {
            "mode": fallback.mode,
            "mode_cause": clean(fallback.cause),
            "mode_since": fallback.since,
            "points_every": every,
        }

    def _mode(self, capture: Capture) -> Dict[str, object]:
        status = capture.status()
        cause = "" if status.cause is None else status.cause.name.lower().replace("_", " ")
        since = max(0, self._clock.now() - int(self._clock.monotonic() * 1e9) + status.since)
        return {"mode": status.mode, "mode_cause": cause, "mode_since": since}

    def _warnings(self) -> List[str]:
        replication = self._replication
        found = [replication.trouble] if replication.trouble else []
        if replication.current is not None and not replication.current.reachable:
            found.append("The process server cannot be reached.")
        if isinstance(replication.current, RoundRun) and replication.current.trouble:
            found.append(replication.current.trouble)
        if isinstance(replication.current, EpochRun):
            found.extend(told for told in (replication.current.waiting, replication.current.outrun) if told)
        found.extend(self._blind())
        if replication.memory_only:
            found.append(f"There is no .hrl file, an outage is bridged from memory only: {replication.memory_only}")
        in_data_mode = replication.capture is None or replication.capture.mode is CaptureMode.DATA
        if replication.fallback is None and not in_data_mode:
            found.append("Changes are only noted in the bitmap; the next points come when they have been copied.")
        return found

    def _blind(self) -> List[str]:
        """Return warnings. We do not switch statistics on ourselves: docs/decisions/2026-11-22-capture-order.md."""
        verdicts = self._verdicts()
        return [
            f"The kernel's statistics of disk {one.disk.name} are off: writes that escape the capture are not noticed. "
            f"Switch them on: echo 1 > /sys/block/{one.disk.name}/queue/iostats"
            for one in self._replication.disks
            if one.number in verdicts and verdicts[one.number].state is State.BLIND
        ]

    def _verdicts(self) -> Mapping[DiskNumber, Verdict]:
        run = self._replication.current
        return {} if run is None else run.verdicts

    def _accounts(self, capture: Capture) -> List[DiskAccount]:
        verdicts = self._verdicts()
        if self._capture_started != self._replication.capture_started:
            self._capture_started = self._replication.capture_started
            self._kernel_base.clear()
        accounts = []
        counted = capture.counters()
        for one in self._replication.disks:
            counters = counted.get(one.number)
            if counters is None:
                continue
            try:
                stat = read_stat(one.disk.device)
            except NotFound:  # it was pulled out; replication.py notices that at its next look
                continue
            total = stat.written + stat.discarded
            # Earlier completions are in the kernel's count: each look narrows the base from above.
            base = total - counters.written_done - counters.discarded_done
            base = min(base, self._kernel_base.get(one.number, base))
            self._kernel_base[one.number] = base
            seen = counters.written + counters.discarded
            verdict = verdicts.get(one.number, Verdict(State.UNSETTLED))
            accounts.append(
                DiskAccount(
                    disk=one.number,
                    seen=seen,
                    captured=counters.captured,
                    bitmap=counters.mapped,
                    excluded=counters.excluded,
                    kernel=total - base,
                    verdict=verdict.state.value if not verdict.gap else f"gap of {verdict.gap} bytes",
                    commands=counters.commands,
                )
            )
        return accounts
