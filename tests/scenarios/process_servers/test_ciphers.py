"""Port 9443 takes no cipher that authenticates after it has decrypted (CBC), from whoever offers nothing else."""

from __future__ import annotations

import ssl

import pytest
from tests.scenarios.control.test_listening import CBC
from tests.scenarios.process_servers.test_slow_bodies import Site

REQUEST = b"POST /batch HTTP/1.1\r\nHost: ps\r\nContent-Length: 1\r\n\r\nx"


@pytest.mark.parametrize("ciphers", ["", CBC], ids=["ours", "control"])
def test_cbc_is_refused(ciphers: str) -> None:
    """The control shows that the client's offer itself is good."""
    site = Site(ciphers)
    try:
        context = site.machine()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CBC)
        if not ciphers:
            with pytest.raises(ssl.SSLError, match=r"HANDSHAKE_FAILURE|NO_SHARED_CIPHER"):
                site.connect(context)
        else:
            with site.connect(context) as line:
                line.sendall(REQUEST)
                assert line.recv(1 << 16).split()[1] == b"200"
    finally:
        site.listener.stop()
