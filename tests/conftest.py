"""Rules for every test: nothing skips in CI, a file stays on one worker, workers share no port.

With CI=true a test that lacks something (a tool, root, a device) fails, however it skips. pytest-xdist spreads the
tests over workers: each file is a group, so that its module fixtures are made once, and so are the files of ``SHARED``.
The groups with the largest time limits start first.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Hypothesis has a profile of its own for CI; elsewhere, too, how long an example takes is no reason to fail.
settings.register_profile("farshore", deadline=None)
if os.environ.get("CI") != "true":
    settings.load_profile("farshore")

SHARED = dict.fromkeys(("test_page_blob.py", "test_stores.py", "test_stores_under_fire.py"), "object stores")
"""Files that share a costly service, by its name."""
_PORTS, _LARGEST_WORKER_COUNT = range(15_000, 32_000), 17

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_configure() -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    share = len(_PORTS) // _LARGEST_WORKER_COUNT
    last = _LARGEST_WORKER_COUNT - 1  # what runs without workers, such as the main job beside them
    first = _PORTS.start + (int(worker) % last if worker else last) * share
    os.environ.setdefault("FARSHORE_HEARTBEAT_EVERY", "2")  # tests wait for what machines tell
    os.environ["FARSHORE_LAB_PORTS"] = f"{first}-{first + share}"  # farshore.lab.ports, in subprocesses too


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.environ.get("FARSHORE_SOAK"):
        long = [item for item in items if item.get_closest_marker("soak") is not None]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item.get_closest_marker("soak") is None]
    limits: dict[str, float] = {}
    for item in items:
        limits[_group(item.nodeid)] = max(_limit(item), limits.get(_group(item.nodeid), 0))
    items.sort(key=lambda item: -limits[_group(item.nodeid)])


class FilesTogether(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each worker one group after another. xdist's own groups do not work with pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesTogether:
    return FilesTogether(config, log)


def _group(nodeid: str) -> str:
    file = nodeid.split("::", 1)[0]
    return SHARED.get(Path(file).name, file)


def _limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None else 0.0


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:  # at once, not when all is over
        message = getattr(getattr(report.longrepr, "reprcrash", None), "message", str(report.longrepr))
        print(f"\n{report.when} of {report.nodeid} failed: {message[:2000]}", flush=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _failed_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _failed_if_skipped((yield))


def _failed_if_skipped(report: Report) -> Report:
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        said: Any = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"It would skip, and in CI nothing may: {said[2] if isinstance(said, tuple) else said}"
    return report
