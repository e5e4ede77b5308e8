"""``python -m tests.crash.fire``: rounds of fire until a number of rounds or minutes is over.

``--seed`` replays: round k of a run has the seed of the first plus k, so ``--rounds 1`` with the layout and seed that a
round prints has the same faults at the same moments (rounds.py says what else is the same). Exit status 1 where
anything was violated.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.fire.plant import Layout
from tests.crash.fire.rounds import FAULTS_A_ROUND, Result, installation, table
from tests.loopdisks import SCRATCH


def main() -> int:
    """Run; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=0, help="instead of --rounds")
    parser.add_argument("--seed", type=int, default=0, help="of the first round; 0: a random one")
    layouts = [layout.value for layout in Layout]
    parser.add_argument("--layout", choices=layouts, help="of the installation; the seed decides where it is not given")
    parser.add_argument("--only", default="", help="only faults whose name holds this text, or one of several")
    parser.add_argument("--faults", type=int, default=FAULTS_A_ROUND, help="at most so many in a round")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first round with a violation")
    parser.add_argument("--agent-fault", default="", help="put this fault back into the agent (faulty_agent.py)")
    options = parser.parse_args()
    first = options.seed or random.SystemRandom().randrange(1, 1 << 31)
    layout = Layout(options.layout or random.Random(first).choice(layouts))
    results: list[Result] = []
    give_up = time.monotonic() + options.minutes * 60
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="fire-", dir=SCRATCH) as folder,
        installation(Path(folder), first, layout, agent_fault=options.agent_fault) as fire,
    ):
        while time.monotonic() < give_up if options.minutes else len(results) < options.rounds:
            results.append(fire.run(first + len(results), _say, only=options.only, faults=options.faults))
            if results[-1].violations and not options.keep_going:
                break
    _say(table(results))
    return 1 if any(result.violations for result in results) else 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
