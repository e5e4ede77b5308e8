"""The demo's output: a line for each stage with its time, a bar if progress is known, the closing table."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

LOG_WIDTH = 140
"""If the output is not a terminal: wide enough that no line wraps."""


@dataclass
class Finding:
    """One line of the closing table. ``good`` None: a figure without a verdict."""

    what: str
    result: str
    good: bool | None = None


@dataclass
class Stage:
    """A running stage: ``tell`` changes its text, ``fraction`` its bar."""

    _progress: Progress
    _task: TaskID
    name: str
    note: str = ""

    def tell(self, note: str, fraction: float | None = None) -> None:
        """Set the text and the bar; ``fraction`` is 0…1."""
        self.note = note
        self._progress.update(self._task, note=note)
        if fraction is not None:
            self._progress.update(self._task, total=1.0, completed=fraction)


def _console() -> Console:
    """Return a console without markup: texts may contain brackets."""
    width = None if sys.stdout.isatty() else LOG_WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False)


@dataclass
class Display:
    """Shows stages as they run, and findings at the end. Works on a terminal and in a log."""

    console: Console = field(default_factory=_console)
    findings: list[Finding] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Run a stage; print one line when it is over."""
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
        columns_after = (TextColumn("{task.fields[note]}", markup=False), TimeElapsedColumn())
        start = time.monotonic()
        live = self.console.is_terminal
        with Progress(*columns, *columns_after, console=self.console, transient=True, disable=not live) as progress:
            stage = Stage(progress, progress.add_task(name, total=None, note=""), name)
            yield stage
        took = time.monotonic() - start
        note = f"  {stage.note}" if stage.note else ""
        self.console.print(Text.assemble(("✓", "green"), f" {name:<46} {took:6.1f} s{note}"))

    def say(self, text: str) -> None:
        """Print the text unchanged."""
        self.console.print(text)

    def find(self, what: str, result: str, good: bool | None = None) -> None:
        """Add a line to the closing table."""
        self.findings.append(Finding(what, result, good))

    def close(self) -> bool:
        """Print the table; True if no finding is bad."""
        table = Table(title="What was seen", title_justify="left")
        table.add_column("What")
        table.add_column("Result")
        table.add_column("")
        marks = {None: Text(), True: Text("good", "green"), False: Text("BAD", "red")}
        for finding in self.findings:
            table.add_row(finding.what, finding.result, marks[finding.good])
        table.add_row("The whole demo", f"{time.monotonic() - self.began:.0f} s", "")
        self.console.print(table)
        return all(finding.good is not False for finding in self.findings)
