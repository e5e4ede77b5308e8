"""The agent's libraries: pinned for every Python as the package asks and the tests run, and held to their hashes."""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from farshore.model.errors import TryLater
from farshore.protection.push import bundle

TESTED = Path(__file__).parents[3] / "requirements.txt"
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"}
CPYTHON = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
PYTHONS = [(3, minor) for minor in range(bundle.OLDEST[1], bundle.NEWEST[1] + 1)]


def environment(python: tuple[int, int]) -> dict[str, str]:
    """As the bundle's build describes that Python to uv."""
    dotted = f"{python[0]}.{python[1]}"
    return LINUX | CPYTHON | {"python_version": dotted, "python_full_version": f"{dotted}.0", "extra": "mobility"}


def pins(file: Path, python: tuple[int, int]) -> dict[str, str]:
    """Name and version of everything that file pins for that Python."""
    found: dict[str, str] = {}
    for line in file.read_text().splitlines():
        if "==" in line:
            wanted = Requirement(line.removesuffix(" \\"))
            if wanted.marker is None or wanted.marker.evaluate(environment(python)):
                assert wanted.name not in found
                found[wanted.name] = str(wanted.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_they_are_what_the_package_asks_for(python: tuple[int, int]) -> None:
    pinned = pins(bundle.REQUIREMENTS, python)
    asked = [Requirement(line) for line in requires("farshore") or []]
    ours = [wanted for wanted in asked if wanted.marker is None or wanted.marker.evaluate(environment(python))]
    assert len(ours) >= 5
    for wanted in ours:
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), f"make lock: {wanted}"


@pytest.mark.parametrize("python", [python for python in PYTHONS if python >= (3, 11)])
def test_they_are_what_the_tests_run_with(python: tuple[int, int]) -> None:
    tested, pinned = pins(TESTED, python), pins(bundle.REQUIREMENTS, python)
    assert pinned == {name: tested[name] for name in pinned}, "make lock"


@pytest.mark.parametrize("file", [bundle.REQUIREMENTS, TESTED], ids=lambda file: file.name)
def test_a_lock_names_no_address(file: Path) -> None:
    assert "://" not in file.read_text()


def wheel(folder: Path) -> str:
    """A library of one module; its SHA-256."""
    folder.mkdir()
    path = folder / "tiny-1.0-py3-none-any.whl"
    files = {
        "tiny.py": b"",
        "tiny-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        name: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=") for name, data in files.items()
    }
    rows = [f"{name},sha256={digests[name].decode()},{len(data)}" for name, data in files.items()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr("tiny-1.0.dist-info/RECORD", "\n".join([*rows, "tiny-1.0.dist-info/RECORD,,", ""]))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_library_with_another_hash_does_not_get_into_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = wheel(tmp_path / "index")
    offline = {"OFFLINE": "1", "NO_INDEX": "1", "FIND_LINKS": tmp_path / "index", "CACHE_DIR": tmp_path / "uv"}
    for name, value in offline.items():
        monkeypatch.setenv(f"UV_{name}", str(value))
    wanted = tmp_path / "wanted.txt"
    monkeypatch.setattr(bundle, "REQUIREMENTS", wanted)
    python = (sys.version_info[0], sys.version_info[1])
    for refused in (f"tiny==1.0 --hash=sha256:{'0' * 64}", "tiny==1.0", "tiny --hash=sha256:" + digest):
        wanted.write_text(refused + "\n")
        with pytest.raises(TryLater, match=r"(?i)hash"):
            bundle.build_bundle(python, tmp_path / "cache")
    wanted.write_text(f"tiny==1.0 --hash=sha256:{digest}\n")
    assert bundle.build_bundle(python, tmp_path / "cache").path.exists()
