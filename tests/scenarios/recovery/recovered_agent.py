"""A program: the mobility service in a machine whose firmware says what the first argument, a folder, holds."""

from __future__ import annotations

import sys
from pathlib import Path

from farshore.mobility.control import description, led_out
from farshore.mobility.main import main

if __name__ == "__main__":
    firmware = Path(sys.argv.pop(1))
    led_out._DMI_VENDOR, description._DMI_UUID = firmware / "sys_vendor", firmware / "product_uuid"
    sys.exit(main())
