"""The jobs of one configuration server, as a process of their own: told on standard input what to do, a line each.

A ``stepwise`` job writes a line into its file for each step that it begins; its second step waits for ``go``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from dbos import DBOS

from farshore.configuration_server.jobs.engine import JobEngine
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.model.errors import FarshoreError
from farshore.model.identifiers import JobId


def definition(folder: Path, executor: str) -> JobDefinition:
    def begin(step: str) -> None:
        with (folder / str(DBOS.workflow_id)).open("a") as file:
            file.write(f"{step} {executor}\n")

    @DBOS.step(name="first")
    def first() -> None:
        begin("first")

    @DBOS.step(name="second")
    def second() -> None:
        begin("second")
        go = folder / f"{DBOS.workflow_id}.go"
        while not go.exists():
            time.sleep(0.02)

    @DBOS.workflow(name="stepwise")
    def run(_request: Request) -> Result:
        first()
        second()
        return {"done": True}

    return JobDefinition("stepwise", run, ("first", "second"))


def answer(engine: JobEngine, words: list[str]) -> Any:
    """``start JOB``, ``show JOB`` or ``recover EXECUTOR``."""
    try:
        if words[0] == "recover":
            return [job.id for job in engine.recover(words[1])]
        if words[0] == "start":
            engine.start("stepwise", {"subject": "x"}, JobId(words[1]))
        return engine.show(JobId(words[1])).model_dump(mode="json")
    except FarshoreError as error:
        return error.code


def main(url: str, executor: str, folder: str) -> None:
    """Work until standard input ends."""
    engine = JobEngine(url, [definition(Path(folder), executor)], executor)
    engine.launch()
    for line in sys.stdin:
        print(json.dumps(answer(engine, line.split())), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
