"""Reads the settings of a program that has its own: a TOML file, and environment variables, which override the file.

Errors name the setting and its allowed values, as they do for an option of a command.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from farshore.model.errors import Malformed
from farshore.model.faults import sentence

T = TypeVar("T", bound=BaseSettings)


def read_settings(kind: type[T], path: Path | None) -> T:
    """Return settings of ``kind``. A missing file counts as empty. Raises Malformed."""
    try:
        return kind(**{**_in_file(path), **EnvSettingsSource(kind)()})
    except SettingsError as error:
        prefix = kind.model_config.get("env_prefix", "")
        raise Malformed(f"A {prefix}* variable cannot be read.", remedy="Correct it, or unset it.") from error
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in fault["loc"])
        where = f" ({path})" if path is not None else ""
        raise Malformed(
            f"The setting {name} {sentence(fault)}{where}.", remedy="Correct it, then start again."
        ) from error


def _in_file(path: Path | None) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text()) if path is not None else {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Malformed(f"{path} cannot be read: {error.strerror}.", remedy="See --settings.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"{path} is not TOML: {error}.", remedy="Correct the file.") from error
