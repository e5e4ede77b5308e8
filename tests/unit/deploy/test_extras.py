"""Each extra brings all that its programs import, as the code says; a part that is not installed is told."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from farshore import programs
from farshore.model.errors import Unsupported

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "src").rglob("*.py")
}
PROGRAMS = {
    "mobility": ["farshore.mobility.main"],
    "cli": ["farshore.cli.main"],
    # farshore up is the command line, and starts the servers.
    "server": [
        "farshore.cli.main",
        "farshore.process_server.main",
        "farshore.configuration_server.main",
        "farshore.configuration_server.setup",
        "farshore.master_target.main",
    ],
    "lab": ["farshore.lab.demo.__main__", "farshore.cli.main", "farshore.configuration_server.main"],
}

LOADED_IF_THERE = {"alerts", "azure", "vsphere"}
"""Extras of one provider, which a program loads where they are installed, and says what to install where they are not.
"""


def named(module: str) -> Iterator[str]:
    """What a module imports, and modules of its own folder that it names to load or start them later."""
    folder = ".".join(module.split(".")[:2]) + "."
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and node.value in MODULES and str(node.value).startswith(folder):
            yield str(node.value)


def foreign_imports(modules: list[str]) -> dict[str, str]:
    """Top-level names that are neither ours nor the standard library's, each with a module that imports it."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen or module not in MODULES:
            continue
        seen.add(module)
        waiting += [module.rpartition(".")[0]]
        for name in named(module):
            top = name.partition(".")[0]
            if top == "farshore":
                waiting.append(name)
            elif top not in sys.stdlib_module_names:
                found.setdefault(top, module)
    return found


def asked_for(extra: str) -> set[str]:
    """The distributions that an extra brings, those of other extras that it names and the program's own included."""
    extras = PROJECT["optional-dependencies"]
    found: set[str] = set()
    for line in [*PROJECT["dependencies"], *extras[extra]]:
        inner = re.fullmatch(r"farshore\[(.+)\]", line)
        if inner:
            found |= {one for name in inner[1].split(",") for one in asked_for(name)}
        else:
            found.add(re.split(r"[<>=!~\[; ]", line)[0].lower())
    return found


@pytest.mark.parametrize("extra", sorted({*PROJECT["optional-dependencies"]} - LOADED_IF_THERE))
def test_an_extra_brings_what_its_programs_import(extra):
    by_import = metadata.packages_distributions()
    imports = foreign_imports(PROGRAMS[extra])
    assert {"pydantic", "urllib3"} <= set(imports), "the walk through the code finds what every program needs"
    there = asked_for(extra).union(*(asked_for(one) for one in LOADED_IF_THERE))
    lacking = {
        f"{top}, for {module}"
        for top, module in imports.items()
        if not there & {name.lower().replace("_", "-") for name in by_import[top]}
    }
    assert not lacking


def test_the_vault_commands_count_for_the_command_line():
    assert "obstore" in foreign_imports(PROGRAMS["cli"])
    assert "dbos" not in foreign_imports(PROGRAMS["cli"])


def test_every_command_starts_a_program_that_is_there():
    for script in PROJECT["scripts"].values():
        module, _, function = script.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize(
    ("command", "lacking", "extra"),
    [
        ("farshore", "typer", "cli"),
        ("mobility", "numpy", "mobility"),
        ("process_server", "h11", "server"),
        ("configuration_server", "dbos", "server"),
    ],
)
def test_a_command_says_what_to_install(command, lacking, extra):
    program = (
        f"import sys; sys.modules[{lacking!r}] = None; from farshore import programs; sys.exit(programs.{command}())"
    )
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == Unsupported.exit_status
    assert "Traceback" not in done.stderr
    assert lacking in done.stderr
    assert f"pip install '.[{extra}]'" in done.stderr


def test_the_vault_commands_say_what_to_install():
    program = "import sys; sys.modules['obstore'] = None; from farshore import programs; sys.exit(programs.farshore())"
    words = [sys.executable, "-c", program, "vault", "ls"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == Unsupported.exit_status
    assert done.stderr.startswith("Error: `farshore vault` needs packages that are not installed: obstore.\nRemedy: ")


def test_an_extra_that_is_not_installed_is_told_before_anything_begins(monkeypatch):
    programs.check_installed("farshore up", "server")
    known = metadata.distribution

    def without_dbos(name: str) -> metadata.Distribution:
        if name == "dbos":
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "distribution", without_dbos)
    with pytest.raises(Unsupported, match="`farshore up` needs packages that are not installed: dbos"):
        programs.check_installed("farshore up", "server")


def test_a_module_of_ours_that_is_not_there_is_a_defect_and_told_as_one():
    with pytest.raises(ModuleNotFoundError):
        programs.load("farshore", "farshore.nowhere", "cli")
