"""Manual pages: one for each command, with every option in it, and nothing in them that troff takes for its own."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.cli.test_commands import COMMANDS
from typer.testing import CliRunner

from farshore.cli.main import commands


def test_each_command_has_a_page_with_its_options(tmp_path: Path) -> None:
    done = CliRunner().invoke(commands, ["man", "--output", str(tmp_path), "--json"], catch_exceptions=False)
    pages = json.loads(done.stdout)["pages"]
    assert {f"farshore-{name.replace(' ', '-')}" for name in COMMANDS} <= set(pages)
    for name, command in COMMANDS.items():
        text = (tmp_path / f"farshore-{name.replace(' ', '-')}.1").read_text()
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert parameter.opts[0].replace("-", "\\-") in text, f"{name}: {parameter.opts}"
        macros = {line.split()[0] for line in text.splitlines() if line[:1] in (".", "'")}
        assert macros <= {".TH", ".SH", ".PP", ".TP", ".B", ".BR"}, name
        assert "`" not in text
    root = (tmp_path / "farshore.1").read_text()
    assert "farshore\\-point" in root
