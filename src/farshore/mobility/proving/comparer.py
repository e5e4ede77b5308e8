"""The process server's part in a proof."""

from __future__ import annotations

from typing import Protocol

from farshore.api_types.streams import DifferenceAnswer, ProofAnswer
from farshore.formats.proof import Difference, Proof


class Comparer(Protocol):
    """The part of client.DataPlane that compares chunks with the vault. Raises its errors."""

    def prove(self, proof: Proof) -> ProofAnswer:
        """Compare chunks by their hashes."""
        ...

    def differ(self, found: Difference) -> DifferenceAnswer:
        """Compare one chunk by its bytes, and keep both versions if asked to."""
        ...
