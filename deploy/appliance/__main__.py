"""``python -m deploy.appliance``: writes ``farshore-VERSION.qcow2`` and ``farshore-VERSION.ova``. Needs root."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from deploy.appliance import archive, disk, tree
from deploy.appliance.envelope import Appliance
from farshore import __version__
from farshore.lab.image import check_host
from farshore.model.errors import FarshoreError

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Build; the exit status is that of the error's class."""
    parser = argparse.ArgumentParser(prog="make appliance", description="Build the server appliance.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the images [default: dist]")
    options = parser.parse_args()
    try:
        for made in build(options.output):
            sys.stdout.write(f"{made}\n")
    except FarshoreError as error:
        sys.stderr.write(f"Error: {error.message}\nRemedy: {error.remedy}\n")
        return error.exit_status
    return 0


def build(output: Path) -> list[Path]:
    """Write both images, and return their paths. A build that fails leaves no image. Raises Refused, TryLater."""
    check_host()
    output.mkdir(parents=True, exist_ok=True)
    name = f"farshore-{__version__}"
    # Beside the images: a folder for temporary files may be small, or in memory.
    with tempfile.TemporaryDirectory(dir=output, prefix=".appliance-") as made:
        scratch = Path(made)
        root = tree.make(ROOT, scratch)
        raw = disk.make(root, scratch)
        qcow2 = disk.convert(raw, scratch / f"{name}.qcow2", "qcow2", "compression_type=zstd")
        vmdk = disk.convert(
            raw, scratch / f"{name}-disk1.vmdk", "vmdk", "subformat=streamOptimized,adapter_type=lsilogic"
        )
        ova = archive.write(
            Appliance(__version__, vmdk.name, vmdk.stat().st_size, disk.BYTES), vmdk, scratch / f"{name}.ova"
        )
        return [path.replace(output / path.name) for path in (qcow2, ova)]


if __name__ == "__main__":
    sys.exit(main())
