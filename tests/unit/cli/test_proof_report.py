"""What a proof's result and a machine's standing say, for whoever files them."""

from __future__ import annotations

from typing import Any

from farshore.api_types.machines import DiskProof, ProofStanding
from farshore.cli.proof_report import outcome, standing


def disk(number: int, proven: int, sequence: int) -> dict[str, Any]:
    at = {"oldest": 1, "newest": 1, "first_epoch": 2, "first_sequence": sequence}
    return {"disk": number, "chunks": 100, "proven": proven, "lately": proven, "doubtful": 0, **at}


def test_a_result_says_from_which_position_it_holds_and_what_it_does_not_say() -> None:
    result = {
        "chunks": {"proven": 140, "differing": 1, "busy": 3},
        "disks": [disk(0, 100, 9), disk(1, 40, 7), disk(2, 0, 0)],
        "weaker": "In scan mode a proof says less.",
    }
    found = [f"{name}: {text}" for name, text in outcome(result)]
    assert "Position: the proven chunks were equal at or after 2:7" in found
    assert "Limitation: In scan mode a proof says less." in found
    assert "Differing: 1 chunks, sent again" in found
    del result["weaker"]  # a job of an earlier release
    assert ("Limitation", "") in outcome(result)


def test_a_machine_shows_what_its_proofs_cost_and_that_nothing_ever_differed() -> None:
    shown = ProofStanding(disks=[DiskProof.model_validate(disk(0, 71, 1))], pace=2_000_000)
    found = dict(standing(shown))
    assert (found["Ever differed"], found["Proof costs"].split(" of ")[0]) == ("none", "2 MB/s")
    costly = shown.model_copy(update={"compared": 16, "vault_bytes": 2 << 20, "vault_requests": 9, "differences": 4})
    found = dict(standing(costly))
    assert found["Ever differed"] == "4 chunks"
    assert "2.0 MiB and 9 requests of the vault for 1.0 MiB compared" in found["Proof costs"]
    assert standing(None) == []
