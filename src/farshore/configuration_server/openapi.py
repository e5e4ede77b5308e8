"""Write the published description of the API: ``python -m farshore.configuration_server.openapi FILE``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from farshore.configuration_server.application import create_application


def document() -> str:
    """Return the OpenAPI document as it is published."""
    return json.dumps(create_application(None).openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the document to the file named."""
    Path(arguments[0]).write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
