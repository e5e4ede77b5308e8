"""The process server, as a proof needs it."""

from __future__ import annotations

from typing import Protocol

from farshore.api_types.streams import DifferenceAnswer, ProofAnswer
from farshore.formats.proof import Difference, Proof


class Comparer(Protocol):
    """The part of client.DataPlane that compares chunks with the vault. Raises what that does."""

    def prove(self, proof: Proof) -> ProofAnswer:
        """Compare chunks by their hashes."""
        ...

    def differ(self, found: Difference) -> DifferenceAnswer:
        """Compare one chunk by its bytes, and keep both versions if asked to."""
        ...
