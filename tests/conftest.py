"""For every test. In CI nothing skips: what a test lacks there (a tool, root, a device) fails it, however it skips."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any, TypeVar

import pytest
from hypothesis import settings

# Hypothesis has a profile of its own for CI; elsewhere, too, how long an example takes is no reason to fail.
settings.register_profile("farshore", deadline=None)
if os.environ.get("CI") != "true":
    settings.load_profile("farshore")

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


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
