"""Key files: one line that holds the owner's key, or names the command that reaches it."""

from __future__ import annotations

import shlex
from pathlib import Path

from farshore.model.errors import Malformed
from farshore.vault.keys.command import CommandKey
from farshore.vault.keys.owner_keys import KeyWrapper, OwnerKey, read_key_file

COMMAND_HEADER = "farshore-key-command-1:"


def open_key_file(path: Path) -> KeyWrapper:
    """Return the key that a file holds or names. Raises NotFound, Malformed, and Refused if others may read the
    file."""
    text = read_key_file(path)
    if not text.startswith(COMMAND_HEADER):
        return OwnerKey.from_file(path)
    try:
        command = shlex.split(text[len(COMMAND_HEADER) :])
    except ValueError as cause:
        raise Malformed(
            f"The quotes of the command in {path} do not match.", remedy="Quote it as in a shell."
        ) from cause
    if not command:
        raise Malformed(f"{path} does not name a command.", remedy=f"Write: {COMMAND_HEADER} PROGRAM ARGUMENTS")
    return CommandKey(command)
