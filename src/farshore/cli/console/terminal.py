"""The console's output and questions: lines of text, answers that may have a default, and secrets that are not
shown."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from typing import TypeVar

from farshore.model.errors import FarshoreError, Malformed

T = TypeVar("T")


class Terminal:
    """The terminal on which this program was started."""

    def say(self, text: str = "") -> None:
        """Print a line."""
        print(text, flush=True)  # noqa: T201

    def read(self, prompt: str) -> str:
        """Return a line without its end. Raises EOFError when the terminal is closed."""
        return input(prompt)

    def read_secret(self, prompt: str) -> str:
        """Return a line that the terminal did not show. Raises EOFError."""
        return getpass.getpass(prompt, sys.stderr)

    def ask(self, question: str, parse: Callable[[str], T], default: str = "") -> T:
        """Ask until ``parse`` accepts the answer. It rejects one with a FarshoreError, whose text is printed."""
        shown = f"{question} [{default}]: " if default else f"{question}: "
        while True:
            try:
                return parse(self.read(shown).strip() or default)
            except FarshoreError as error:
                self.say(f"  {error.message} {error.remedy}")

    def ask_yes(self, question: str, *, default: bool) -> bool:
        """Ask for yes or no."""
        answer = self.ask(f"{question} (y/n)", _yes_or_no, "y" if default else "n")
        return answer == "y"

    def ask_secret(self, question: str, least: int = 1) -> str:
        """Ask for a secret of ``least`` characters."""
        while True:
            answer = self.read_secret(f"{question}: ")
            if len(answer) >= least:
                return answer
            self.say(f"  It needs at least {least} characters.")

    def ask_new_secret(self, question: str, least: int) -> str:
        """Ask for a new secret, twice."""
        while True:
            answer = self.ask_secret(question, least)
            if self.read_secret(f"{question}, again: ") == answer:
                return answer
            self.say("  The two entries differ.")


def _yes_or_no(text: str) -> str:
    from_text = text[:1].lower()
    if from_text not in ("y", "n"):
        raise Malformed("The answer is neither yes nor no.", remedy="Answer y or n.")
    return from_text
