"""Formats the results of proofs for the terminal."""

from __future__ import annotations

from typing import Any

from farshore.api_types.machines import DiskProof, ProofStanding
from farshore.cli.output import ago, size
from farshore.model.identifiers import CHUNK


def outcome(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the fields of a proof's result."""
    found, disks = result["chunks"], [DiskProof.model_validate(disk) for disk in result["disks"]]
    first = min(((one.first_epoch, one.first_sequence) for one in disks if one.proven), default=None)
    return [
        ("Equal", f"{found['proven']} chunks ({size(found['proven'] * CHUNK)})"),
        ("Differing", f"{found['differing']} chunks, sent again" if found["differing"] else "none"),
        ("Busy", f"{found['busy']} chunks, at every attempt to read them" if found["busy"] else ""),
        *(("Disk", proven(disk)) for disk in disks),
        ("Position", f"the proven chunks were equal at or after {first[0]}:{first[1]}" if first else ""),
        ("Limitation", result.get("weaker", "")),
    ]


def proven(disk: DiskProof) -> str:
    """Return how much of a disk is proven, in words."""
    if not disk.proven:
        return f"{disk.disk}: not proven yet"
    percent = 100 * disk.lately // max(1, disk.chunks)  # never more than is proven
    share = f"{disk.disk}: {percent}% proven within 7 days"
    return f"{share}; the oldest proof {ago(disk.oldest)}, the newest {ago(disk.newest)}"


def standing(proof: ProofStanding | None) -> list[tuple[str, str]]:
    """Return the proof fields of `farshore machine show`."""
    if proof is None:
        return []
    rows = [("Proof", proven(disk)) for disk in proof.disks]
    if proof.differing:
        rows.append(("Differing", f"{proof.differing} chunks, sent again and not proven yet"))
    rows.append(("Ever differed", f"{proof.differences} chunks" if proof.differences else "none"))
    if proof.excused:
        rows.append(("Sent again", f"{proof.excused} chunks that differed for a known reason outside the copy"))
    if proof.unjudged:
        rows.append(
            ("Unexplained", f"{proof.unjudged} chunks that differed and were copied again before the reason was found")
        )
    rows.append(("Proof costs", _costs(proof)))
    return rows + [("Proof", text) for text in (proof.weaker, proof.paused) if text]


def _costs(proof: ProofStanding) -> str:
    pace = f"{proof.pace / 1e6:g} MB/s of disk reads at most where nothing is in doubt"
    if not proof.compared:
        return pace
    vault = f"{size(proof.vault_bytes)} and {proof.vault_requests} requests of the vault"
    return f"{pace}; {vault} for {size(proof.compared * CHUNK)} compared since the agent started"
