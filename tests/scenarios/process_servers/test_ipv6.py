"""Everything over IPv6: the API, the data plane, enrolment, the stream, and the command line."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from tests.crash.mobility.rig import Rig
from tests.loopdisks import loop_disk, require_data_mode

from farshore.api_types.servers import ProcessServer

MIB = 1 << 20


@pytest.mark.soak
def test_a_machine_is_protected_over_ipv6_alone(tmp_path: Path) -> None:
    require_data_mode()
    with loop_disk(64 * MIB, "ext4") as disk:
        rig = Rig(tmp_path, disk, address="::1")
        try:
            rig.up()
            rig.enrol()
            rig.start_agent()
            rig.wait_consistent()
            with contextlib.closing(rig.api()) as api:
                assert api.transport.url.startswith("https://[::1]:")
                (server,) = api.transport.get_list("/v1/process-servers", ProcessServer)
            assert server.name == "ip6-1"
            assert server.url.startswith("https://[::1]:")
        finally:
            rig.close()
