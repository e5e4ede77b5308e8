"""``python -m farshore.configuration_server``: the program as its installed command starts it."""

from __future__ import annotations

import sys

from farshore.programs import configuration_server

sys.exit(configuration_server())
