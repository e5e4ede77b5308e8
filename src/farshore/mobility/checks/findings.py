"""Short ways to write findings."""

from __future__ import annotations

from farshore.api_types.machines import CheckSeverity, Finding


def fine(subject: str, message: str) -> Finding:
    """Make a finding that reports no problem."""
    return Finding(subject=subject, severity=CheckSeverity.OK, message=message)


def warning(subject: str, message: str, remedy: str) -> Finding:
    """Make a warning: protection works, but not as well as it could."""
    return Finding(subject=subject, severity=CheckSeverity.WARNING, message=message, remedy=remedy)


def error(subject: str, message: str, remedy: str) -> Finding:
    """Make an error: something is not protected, or nothing is."""
    return Finding(subject=subject, severity=CheckSeverity.ERROR, message=message, remedy=remedy)
