"""Write the mobility service as one archive, for machines on which it is installed by hand: ``farshore machine
package``.

A separate program, because the command line does not know how bundles are made.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from farshore.model.errors import FarshoreError, NotFound
from farshore.protection.push.bundle import build_bundle, default_cache, parse_python


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the bundle if it is not in the cache, and copy it; the exit status is that of the error's class."""
    parser = argparse.ArgumentParser(prog="farshore machine package", description="Write the agent as an archive.")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    parser.add_argument("--python", required=True, help="Python of the machine, such as 3.11")
    options = parser.parse_args(arguments)
    try:
        bundle = build_bundle(parse_python(options.python), default_cache())
        try:
            shutil.copyfile(bundle.path, options.output)
        except OSError as error:
            raise NotFound(
                f"{options.output} cannot be written ({error.strerror}).", remedy="Give another --output."
            ) from error
    except FarshoreError as error:
        sys.stderr.write(f"Error: {error.message}\nRemedy: {error.remedy}\n")
        return error.exit_status
    sys.stdout.write(f"{bundle.release}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
