"""Install the mobility service on a machine with the keys of an SSH agent; the command line runs this on its own host.

A server's push job cannot do this: the agent's socket belongs to the user, and its keys never leave it. So the command
creates a token, and this program logs in, with the same steps as the job. It takes one JSON object on its standard
input (the token must be in no argument), reports its progress on standard error, and ends with one JSON object.
"""

from __future__ import annotations

import json
import sys

from farshore.configuration_server.push_secrets import parse_jump
from farshore.model.errors import FarshoreError
from farshore.protection.installation import JumpHost, PushTarget
from farshore.protection.push.install import PushInstaller


def main() -> int:
    """Install; the exit status is that of the error's class."""
    asked = json.load(sys.stdin)
    try:
        jump = JumpHost(*parse_jump(asked["jump"], asked["user"])) if asked["jump"] else None
        target = PushTarget(
            host=asked["host"],
            port=asked["port"],
            user=asked["user"],
            private_key="",
            agent=asked["agent"],
            jump=jump,
            host_key_fingerprint=asked["host_key"],
            token=asked["token"],
            server_url=asked["server_url"],
            authority_fingerprint=asked["authority_fingerprint"],
            release_key="",  # it comes with the enrolment
            disks=tuple(asked["disks"]),
        )
        shown = PushInstaller()(target, lambda _fraction, what: _tell(what))
    except FarshoreError as error:
        sys.stdout.write(json.dumps(error.as_json()) + "\n")
        return error.exit_status
    sys.stdout.write(json.dumps({"host_key": shown}) + "\n")
    return 0


def _tell(what: str) -> None:
    sys.stderr.write(f"{what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
