"""What goes into the agent's bundle stays valid for Python 3.9, as far as `make check` cannot see to it."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

import farshore
from farshore.protection.push.bundle import OUR_MODULES, OUR_PACKAGES

SOURCES = Path(farshore.__file__).parent
PROJECT = Path(__file__).parents[3]


def test_make_check_looks_at_all_that_goes_into_the_bundle() -> None:
    (line,) = re.findall(r"^AGENT := (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    listed = " ".join(re.findall(r"\$\(addprefix src/farshore/,([^)]*)\)", line))
    assert sorted(listed.split()) == sorted((*OUR_MODULES, *OUR_PACKAGES))
    targets = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["ruff"]["per-file-target-version"]
    patterns = [pattern for pattern, version in targets.items() if version == "py39" and "{" in pattern]
    assert [set(re.findall(r"\w+", pattern)) for pattern in patterns] == [{"src", "farshore", *OUR_PACKAGES}]


@pytest.mark.parametrize("package", OUR_PACKAGES)
def test_no_union_by_a_bar_is_evaluated(package: str) -> None:
    """pydantic evaluates annotations, and ``int | None`` is an error before Python 3.10."""
    for path in (SOURCES / package).rglob("*.py"):
        tree = ast.parse(path.read_text())
        if any(name.startswith("pydantic") for name in imported(tree)):
            for node in ast.walk(tree):
                if isinstance(node, ast.AnnAssign):
                    assert not has_bar(node.annotation), f"{path}:{node.lineno}: write Optional or Union"


def imported(tree: ast.AST) -> set[str]:
    found = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return found | {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}


def has_bar(annotation: ast.expr) -> bool:
    return any(isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) for node in ast.walk(annotation))


def test_a_bar_would_be_seen() -> None:
    (line,) = ast.parse("x: Annotated[list[int | None], 1]").body
    assert isinstance(line, ast.AnnAssign)
    assert has_bar(line.annotation)
