"""The commands of docs/operate exist, with these options: each is parsed as the command line parses it."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from farshore.cli import by_hand
from farshore.cli.main import commands
from farshore.master_target.main import _parser as master_target_parser
from farshore.mobility.main import _parser as mobility_parser
from farshore.process_server.main import _parser as process_server_parser

COMMAND: Any = typer.main.get_command(commands)
ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "operate").glob("*.md"))
PARSERS = {
    "/opt/farshore/current/bin/farshore-mobility": mobility_parser,
    "/opt/farshore/bin/farshore-master-target": master_target_parser,
    "/opt/farshore/bin/farshore-process-server": process_server_parser,
}
"""By where each program is: install.md puts `farshore` alone on the PATH."""


def typed(page: Path) -> list[str]:
    """The lines of a page's blocks of commands."""
    found, inside = [], False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = line in ("```sh", "```console")
        elif (inside and line) or line.startswith("    farshore"):
            found.append(line.strip())
    return found


def parse(line: str) -> None:
    """Raises a usage error of the library's for a line that is none; it has an exit status of 2."""
    program, *arguments = shlex.split(line)
    if program in PARSERS:
        PARSERS[program]().parse_args(arguments)
        return
    command: Any = COMMAND
    context = command.make_context(program, list(arguments))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, list(rest), parent=context)


LINES = [(page.name, line) for page in PAGES for line in typed(page)]
OURS = [(page, line) for page, line in LINES if line.startswith(("farshore ", *PARSERS))]


@pytest.mark.parametrize(("page", "line"), OURS)
def test_a_command_of_the_pages_parses(page: str, line: str) -> None:
    if "--version" not in line:
        parse(line)


@pytest.mark.parametrize("line", ["farshore machine find web1", "farshore machine show", "farshore status --loud"])
def test_the_control_other_lines_do_not(line: str) -> None:
    with pytest.raises(Exception) as refused:  # noqa: PT011 - the library's class is private to it
        parse(line)
    assert getattr(refused.value, "exit_code", 0) == 2


def test_the_control_nor_do_those_of_a_master_target() -> None:
    with pytest.raises(SystemExit):
        parse("/opt/farshore/bin/farshore-master-target finish --now 4f6c")


def test_every_page_is_in_the_list() -> None:
    listed = (PAGES[0].parent / "README.md").read_text()
    assert len(OURS) > 60
    for page in PAGES:
        assert page.name == "README.md" or f"[{page.name}]" in listed


def test_no_command_stands_where_it_is_not_looked_at() -> None:
    for page in PAGES:
        for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            assert kind == "sh" or not re.search(r"^\s*farshore[ -]", block, re.MULTILINE), f"{page.name}: {block}"
    bare = [line for _, line in LINES if re.match(r"farshore-", line)]
    assert bare == [], "these are not on the PATH"


def test_what_is_enabled_was_installed() -> None:
    ours = {unit.stem for unit in (ROOT / "deploy/servers").glob("*.service")}
    for page in PAGES:
        installed: set[str] = set()
        for line in typed(page):
            installed |= {Path(word).stem for word in shlex.split(line) if line.startswith("install ")}
            enabled = line.removeprefix("systemctl enable --now ")
            assert enabled == line or enabled not in ours or enabled in installed, f"{page.name}: {line}"


def test_files_are_put_where_they_can_be(tmp_path: Path) -> None:
    """The ``install`` lines, in a root of a host's usual folders."""
    for folder in ("etc/systemd/system", "usr/lib/sysusers.d", "usr/local/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "store.env").touch()
    lines = [line for _, line in LINES if line.startswith("install ") and "/opt/" not in line]
    assert len(lines) >= 5
    for line in lines:
        words = [f"{tmp_path}{word}" if word.startswith("/") else word for word in shlex.split(line)]
        words = [str(ROOT / word) if word.startswith("deploy/") else word for word in words]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"


def test_the_page_says_what_the_command_prints() -> None:
    printed = by_hand.installation("https://dr.example.com", "FINGERPRINT")
    on_page = typed(ROOT / "docs/operate/protect.md")
    for line in (one.partition("   #")[0] for _, lines in printed for one in lines):
        assert line in on_page
