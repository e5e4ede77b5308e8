"""Each file and name that ARCHITECTURE.md and docs/architecture mention exists, and the map lacks no folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAP = ROOT / "ARCHITECTURE.md"
PAGES = [*sorted((ROOT / "docs/architecture").glob("*.md")), MAP]
_SPAN = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"[\w/.-]+\.(?:py|c|md)|[\w-]+(?:/[\w-]+)*/")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)?")
_LINK = re.compile(r"\]\(([^)#]+)\)")


def missing(text: str, page: Path) -> list[str]:
    """What ``text`` mentions and is not there."""
    source = "\n".join(path.read_text() for path in (ROOT / "src/farshore").rglob("*.py"))
    lost = [link for link in _LINK.findall(text) if not (page.parent / link).exists()]
    for span in _SPAN.findall(text):
        if _FILE.fullmatch(span):
            if not any((base / span).exists() for base in (ROOT, ROOT / "src/farshore")):
                lost.append(span)
        elif _NAME.fullmatch(span) and (span[0].isupper() or "_" in span):
            owner, _, member = span.partition(".")
            defined = re.search(rf"^(?:class|def) {owner}\b|^{owner}\b.*=", source, re.MULTILINE)
            if not defined or (member and not re.search(rf"\b{member}\b", source)):
                lost.append(span)
    return lost


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page: Path) -> None:
    assert not missing(page.read_text(), page)


def unmapped(text: str) -> list[str]:
    """The packages below src/farshore that ``text`` does not name."""
    source = ROOT / "src/farshore"
    packages = sorted(str(one.parent.relative_to(source)) for one in source.rglob("__init__.py"))
    return [one for one in packages if one not in (".", "catalog/migrations/versions") and f"`{one}/`" not in text]


def test_every_package_is_on_the_map() -> None:
    assert unmapped(MAP.read_text()) == []


def test_the_control_a_package_that_is_left_out_is_found() -> None:
    assert unmapped(MAP.read_text().replace("`vault/stores/`", "the stores")) == ["vault/stores"]


def test_a_name_that_is_gone_is_found() -> None:
    text = (
        "See `mobility/gone.py`, `Gone.step`, `not_there`, [this](gone.md), and `mobility/stream/pump.py`, `Pump.step`."
    )
    assert missing(text, PAGES[0]) == ["gone.md", "mobility/gone.py", "Gone.step", "not_there"]
