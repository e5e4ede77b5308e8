"""The evidence of real machines: two of them, on a network of their own, checked and cleaned up."""

from __future__ import annotations

import json

import pytest
from tests.contract.places import short_folder
from tests.loopdisks import require_root
from tests.scenarios.recovery import guests_checked
from tests.scenarios.recovery.lives import PROCESSES

pytestmark = pytest.mark.root


def test_two_machines_on_one_network_show_what_was_checked() -> None:
    require_root()
    with short_folder() as home:
        process = PROCESSES.Process(target=guests_checked.both, args=(home,))
        process.start()
        process.join(300)
        assert process.exitcode == 0
        found = json.loads((home / "outcomes.json").read_text())
    assert found["job"] == "succeeded", "that a check fails takes no machine down"
    assert found["members"] == 2
    assert [one["state"] for one in found["up"]] == ["running", "running"]
    ports = [port for one in found["up"] for port in one["forward"]]
    assert len(set(ports)) == 2, "one for the check of each"
    for one in found["up"]:
        console, tcp = one["evidence"]["checks"]
        assert console["passed"] is True
        assert (tcp["passed"], tcp["detail"]) == (False, "port 22 does not answer")
        assert one["evidence"]["rpo_seconds"] > 0
        assert one["picture"] == b"\x89PNG\r\n\x1a\n".hex()
    assert [one["state"] for one in found["down"]] == ["cleaned-up", "cleaned-up"]
    assert [one["evidence"] for one in found["down"]] == [one["evidence"] for one in found["up"]]
    assert [one["picture"] for one in found["down"]] == [one["picture"] for one in found["up"]]
    assert found["left"] == []
