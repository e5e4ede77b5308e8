"""Bandwidth limits as servers hand them out, for the next days."""

from __future__ import annotations

from farshore.api_types.body import Body, Moment


class Rate(Body):
    """From ``since`` (ns since 1970 UTC) on, ``limit`` bytes a second; 0: no limit."""

    since: Moment
    limit: int
