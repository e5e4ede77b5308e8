"""Short ways to write findings."""

from __future__ import annotations

from farshore.api_types.machines import CheckSeverity, Finding


def fine(subject: str, message: str) -> Finding:
    """Looked at, and well."""
    return Finding(subject=subject, severity=CheckSeverity.OK, message=message)


def warning(subject: str, message: str, remedy: str) -> Finding:
    """Protection works, but not as well as it could."""
    return Finding(subject=subject, severity=CheckSeverity.WARNING, message=message, remedy=remedy)


def error(subject: str, message: str, remedy: str) -> Finding:
    """Something is not protected, or nothing is."""
    return Finding(subject=subject, severity=CheckSeverity.ERROR, message=message, remedy=remedy)
