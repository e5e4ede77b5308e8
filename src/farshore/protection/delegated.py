"""What servers say of the work that they carry out for a job: pushes and errands.

Of a server's own starts only the last that has begun the work counts: what an earlier one still says comes too late.
What is repeated changes nothing.
"""

from __future__ import annotations

from farshore.api_types.master_targets import ErrandProgress, ErrandResult
from farshore.api_types.pushes import PushProgress, PushResult
from farshore.catalog.delegated import DelegatedState
from farshore.catalog.tables import ErrandRow, PushRow


def note(row: PushRow | ErrandRow | None, progress: PushProgress | ErrandProgress) -> bool:
    """Note how far the work is. Return whether it is still wanted."""
    if row is None or row.run != progress.run or row.state != DelegatedState.BEGUN.value:
        return False
    row.signs += 1
    row.fraction, row.detail = progress.fraction, progress.detail
    return True


def end(row: PushRow | ErrandRow | None, result: PushResult | ErrandResult) -> bool:
    """Note what came of the work. Return whether that was still wanted. The first word of the last start holds."""
    if row is None or row.run != result.run:
        return False
    if row.state == DelegatedState.BEGUN.value:
        row.state, row.signs = DelegatedState.ENDED.value, row.signs + 1
        row.result = result.model_dump(mode="json")
    return True
