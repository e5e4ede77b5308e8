"""Run a script of this server in a recovered machine over SSH, with a key from the scripts' folder.

As elsewhere a request names a script and never contains one. The guest is the copy of a machine, reached through this
host or on a test network. Its host key is recorded in the evidence but not verified: a login by key gives the key to
nobody. The script's content is sent to whatever answers there, so it must not contain secrets.
"""

from __future__ import annotations

import asyncio

from farshore.model.errors import Unreachable
from farshore.protection.installation import SshTarget
from farshore.protection.push.ssh import connect

_MOST_SHOWN = 3000
_LONGEST = 300.0
_RUN = 't=$(mktemp) && cat > "$t" && chmod 700 "$t" && "$t" < /dev/null; s=$?; rm -f "$t"; exit $s'


def run_in_guest(script: bytes, key: str, user: str, address: tuple[str, int], seconds: float) -> tuple[bool, str]:
    """Return whether the script ended with status 0 within ``seconds``, and the end of its output.

    Raises Unreachable, Forbidden if the key is not accepted, Malformed for an invalid key."""
    try:
        return asyncio.run(asyncio.wait_for(_run(script, key, user, address), min(seconds, _LONGEST)))
    except TimeoutError:
        raise Unreachable(
            f"The script took longer than {min(seconds, _LONGEST):.0f} s.", remedy="Allow more time: within=SECONDS."
        ) from None


async def _run(script: bytes, key: str, user: str, address: tuple[str, int]) -> tuple[bool, str]:
    target = SshTarget(host=address[0], port=address[1], user=user, private_key=key, host_key_fingerprint="")
    async with connect(target) as shell:
        status, said = await shell.outcome(_RUN, script, _MOST_SHOWN)
        text = said.decode("utf-8", "replace").strip()
        how = "it was cut off" if status is None else f"status {status}"
        return status == 0, f"{how} (host key {shell.fingerprint}){f': {text}' if text else ''}"
