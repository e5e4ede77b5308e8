"""Releases of the agent for process servers: made once, in the background; who asks meanwhile is told to ask again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.waiting import until

from farshore.api_types.pushes import AgentRelease
from farshore.configuration_server.agent_releases import FAILURE_SECONDS, AgentReleases
from farshore.model.errors import TryLater, Unsupported
from farshore.protection.push.bundle import Bundle, PythonVersion

PYTHON = "3.11"


class Builder:
    """Builds as a test says: ``go_on`` lets them end, ``failures`` are raised."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, 0.0
        self.begun: list[PythonVersion] = []
        self.go_on = threading.Event()
        self.failures: list[Exception] = []
        self.releases = AgentReleases(self.build, lambda: self.now)

    def build(self, python: PythonVersion) -> Bundle:
        self.begun.append(python)
        assert self.go_on.wait(60)
        if self.failures:
            raise self.failures.pop(0)
        path = self.folder / f"mobility-r{len(self.begun)}.tar.gz"
        path.write_bytes(b"a bundle")
        return Bundle(f"r{len(self.begun)}", path)

    def made(self) -> AgentRelease:
        self.go_on.set()

        def offered() -> AgentRelease | None:
            try:
                return self.releases.offer(PYTHON)
            except TryLater as error:
                if error.after is None:
                    raise
                return None

        return until(offered, "it is not made") or AgentRelease(release="", digest="")


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[Builder]:
    made = Builder(tmp_path)
    yield made
    made.go_on.set()


def test_who_asks_during_a_build_is_sent_away_at_once_and_starts_no_second_one(builder: Builder) -> None:
    for _ in range(20):
        with pytest.raises(TryLater) as caught:
            builder.releases.offer(PYTHON)
        assert caught.value.after
    until(lambda: builder.begun, "the build does not begin")
    made = builder.made()
    assert (made.release, len(made.digest)) == ("r1", 64)
    assert builder.releases.offer(PYTHON) == made
    assert builder.begun == [(3, 11)]


def test_a_build_that_hangs_holds_up_no_other_version(builder: Builder) -> None:
    for python in ("3.11", "3.12"):
        with pytest.raises(TryLater):
            builder.releases.offer(python)
    until(lambda: sorted(builder.begun) == [(3, 11), (3, 12)], "both begin")


@pytest.mark.parametrize("failure", [TryLater("No index.", remedy="-"), ValueError("very secret")])
def test_a_failure_is_reported_for_a_while_and_then_tried_anew(builder: Builder, failure: Exception) -> None:
    builder.failures = [failure]
    with pytest.raises(TryLater) as caught:
        builder.made()
    assert caught.value.after is None, "else the process server would ask again and again"
    assert "secret" not in str(caught.value)
    builder.now += FAILURE_SECONDS / 2
    with pytest.raises(TryLater, match=caught.value.message):
        builder.releases.offer(PYTHON)
    assert len(builder.begun) == 1
    builder.now += FAILURE_SECONDS
    assert builder.made().release == "r2"


def test_a_release_whose_file_is_gone_is_made_again(builder: Builder) -> None:
    builder.made()
    (builder.folder / "mobility-r1.tar.gz").unlink()
    assert builder.made().release == "r2"


@pytest.mark.parametrize("python", ["3.8", "3.15", "99.99", "x"])
def test_a_version_without_an_agent_starts_nothing(builder: Builder, python: str) -> None:
    with pytest.raises(Unsupported):
        builder.releases.offer(python)
    assert builder.begun == []
