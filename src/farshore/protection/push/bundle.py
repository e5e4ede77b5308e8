"""Build the mobility service as one archive for one Python version: its target needs no pip, compiler or internet.

It holds our own modules, their libraries unpacked from wheels, the capture program, libbpf with the libraries that
libbpf needs, a launcher and the systemd unit. The libraries are those of agent-requirements.txt, for any Python, each
by its hash: `make lock` derives that file from the package's own dependencies. They are fetched from the network once
and then kept in the cache. A release's name is a digest of its contents, so an unchanged one is never sent or installed
twice.
"""

from __future__ import annotations

import compileall
import functools
import gzip
import hashlib
import io
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

import farshore
from farshore import __version__
from farshore.model.errors import FarshoreError, NotFound, TryLater, Unsupported

OLDEST, NEWEST = (3, 9), (3, 14)
PLATFORM = "x86_64-manylinux_2_28"
OUR_MODULES = ("__init__.py", "backoff.py", "clock.py")
OUR_PACKAGES = ("api_types", "client", "formats", "mobility", "model", "telemetry")
UNIT = "farshore-mobility.service"
_HERE = Path(__file__).parent
REQUIREMENTS = _HERE / "agent-requirements.txt"
_ROOT = Path(farshore.__file__).parent
_CAPTURE = tuple(Path("mobility/capture", name) for name in ("capture.bpf.o", "bitmap.bpf.o"))
_LIBRARIES = Path("farshore/mobility/capture/lib")
_LIBBPF = ("libbpf.so.1", "libbpf.so.0")
_SYSTEM = ("libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so", "ld-linux")
_NEEDLESS = ("tests", "f2py", "pycparser")
_DOWNLOAD_SECONDS = 600
_COMPRESSION = 5
_RELEASE = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,99}")
_PYTHON = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})")
_LAUNCHER = """\
#!/usr/bin/env -S {python} -I
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "site"))
from farshore.mobility.main import main

sys.exit(main())
"""

PythonVersion = tuple[int, int]


@dataclass(frozen=True)
class Bundle:
    """``path`` is a .tar.gz with one folder, named ``release``, in it."""

    release: str
    path: Path

    def digest(self) -> str:
        """Return SHA-256 of the file, in hex."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def default_cache() -> Path:
    """Return where bundles are kept: FARSHORE_CACHE, or the user's cache folder."""
    given = os.environ.get("FARSHORE_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "farshore"


def build_bundle(python: PythonVersion, cache: Path) -> Bundle:
    """Return the bundle for a guest's Python (3.9 … 3.14, x86-64). Raises Unsupported, TryLater if wheels cannot be
    had."""
    check_python(python)
    cache.mkdir(parents=True, exist_ok=True)
    wheels = _wheels(python, cache)
    files = dict(_our_files()) | dict(_shared_libraries())
    release = _release(python, wheels, files)
    path = cache / f"mobility-{release}.tar.gz"
    if not path.exists():
        _write(path, release, wheels, files)
    return Bundle(release, path)


def check_python(python: PythonVersion) -> None:
    """Raise Unsupported for a Python that the mobility service does not run on."""
    if not OLDEST <= python <= NEWEST:
        raise Unsupported(
            f"The mobility service does not run on Python {_dotted(python)}.",
            remedy=f"Install Python {_dotted(OLDEST)} to {_dotted(NEWEST)} on the machine.",
        )


def place_of_bundle(release: str, cache: Path) -> Path:
    """Return where the bundle of a release is kept. Raises NotFound for an invalid name."""
    if not _RELEASE.fullmatch(release):
        raise NotFound(f"{release[:100]!r} is not a release.", remedy="Request the upgrade again.")
    return cache / f"mobility-{release}.tar.gz"


def bundle_path(release: str, cache: Path) -> Path:
    """Return the bundle of a release that was built here. Raises NotFound."""
    path = place_of_bundle(release, cache)
    if not path.is_file():
        raise NotFound(f"There is no bundle of release {release!r}.", remedy="Request the upgrade again.")
    return path


def known_release(python: str, cache: Path) -> str:
    """Return the release that this server has for an agent on that Python ("3.11"); empty if it never built one."""
    try:
        version = parse_python(python)
        return _known(version, cache) if _wheels_folder(version, cache).exists() else ""
    except FarshoreError:
        return ""


@functools.lru_cache(maxsize=16)
def _known(python: PythonVersion, cache: Path) -> str:
    """Cached, because our files do not change while this server runs."""
    return _release(python, _wheels_folder(python, cache), dict(_our_files()) | dict(_shared_libraries()))


def parse_python(text: str) -> PythonVersion:
    """Return "3.11" as a pair. Raises Unsupported."""
    found = _PYTHON.fullmatch(text)
    if found is None:
        raise Unsupported(
            "This agent does not report its Python version.", remedy="Install it again: farshore machine add"
        )
    return int(found[1]), int(found[2])


def _wheels_folder(python: PythonVersion, cache: Path) -> Path:
    digest = hashlib.sha256("\n".join((*_NEEDLESS, PLATFORM)).encode() + REQUIREMENTS.read_bytes()).hexdigest()[:12]
    return cache / f"wheels-{_dotted(python)}-{digest}"


def _wheels(python: PythonVersion, cache: Path) -> Path:
    """Return a folder with the libraries for this Python, unpacked and trimmed; made once."""
    folder = _wheels_folder(python, cache)
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=cache, prefix=".wheels-") as made:
        target = Path(made) / "site"
        _download(python, target)
        shutil.rmtree(target / "bin", ignore_errors=True)
        for name in _NEEDLESS:
            for needless in [path for path in target.rglob(name) if path.is_dir()]:
                shutil.rmtree(needless)
        for stub in list(target.rglob("*.pyi")):
            stub.unlink()
        _precompile(python, target)
        try:
            target.replace(folder)
        except OSError:
            if not folder.exists():  # otherwise another process has made the same folder meanwhile
                raise
    return folder


def _download(python: PythonVersion, target: Path) -> None:
    command = [find_uv_bin(), "pip", "install", "--no-config", "--quiet", "--target", str(target)]
    command += ["--only-binary", ":all:", "--python-version", _dotted(python), "--python-platform", PLATFORM]
    command += ["--require-hashes", "--requirements", str(REQUIREMENTS)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_DOWNLOAD_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", b"") or b""
        raise TryLater(
            f"The libraries for Python {_dotted(python)} could not be fetched: {said.decode(errors='replace')[-400:]}",
            remedy="Check this server's access to its Python package index. It is needed once for each Python version.",
        ) from error


def _precompile(python: PythonVersion, folder: Path) -> None:
    """Compile the modules here if our own Python has the same version, to save the machine that work."""
    if sys.version_info[:2] == python:
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(folder, quiet=2, invalidation_mode=mode, stripdir=str(folder))


def _our_files() -> Iterator[tuple[str, bytes]]:
    """Yield our modules and the capture programs by their place below ``site``."""
    if not all((_ROOT / program).exists() for program in _CAPTURE):
        raise Unsupported("The capture program has not been built.", remedy="Run `make -C bpf` on this server.")
    packages = (path for package in OUR_PACKAGES for path in sorted((_ROOT / package).rglob("*.py")))
    for path in (*(_ROOT / module for module in OUR_MODULES), *packages):
        yield f"farshore/{path.relative_to(_ROOT)}", path.read_bytes()
    for program in _CAPTURE:
        yield f"farshore/{program}", (_ROOT / program).read_bytes()


def _shared_libraries() -> Iterator[tuple[str, bytes]]:
    """Yield this host's libbpf, and the libraries that it needs except the C library."""
    listed = _output("ldconfig", "-p").splitlines()
    known = {line.split()[0]: line.rsplit(" => ", 1)[1] for line in listed if " => " in line and "x86-64" in line}
    libbpf = next((known[name] for name in _LIBBPF if name in known), None)
    if libbpf is None:
        raise Unsupported(
            "This server has no libbpf to put into the bundle.", remedy="Install libbpf (Debian: libbpf1)."
        )
    yield str(_LIBRARIES / Path(libbpf).name), Path(libbpf).read_bytes()
    for line in _output("ldd", libbpf).splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if arrow and not name.startswith(_SYSTEM):
            yield str(_LIBRARIES / name), Path(rest.split()[0]).read_bytes()


def _output(*command: str) -> str:
    environment = os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def _release(python: PythonVersion, wheels: Path, files: dict[str, bytes]) -> str:
    digest = hashlib.sha256(_LAUNCHER.encode() + (_HERE / UNIT).read_bytes())
    # The libraries by their contents: a changed one makes another release, with another signature.
    for path in sorted(wheels.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"{path.relative_to(wheels)}\0".encode() + path.read_bytes())
    for name, data in sorted(files.items()):
        digest.update(name.encode() + b"\0" + data)
    return f"{__version__}-python{_dotted(python)}-{digest.hexdigest()[:12]}"


def _write(path: Path, release: str, wheels: Path, files: dict[str, bytes]) -> None:
    python = "python" + release.split("-python", 1)[1].split("-", 1)[0]
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".bundle-")
    try:
        with (
            os.fdopen(descriptor, "wb") as raw,
            gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=_COMPRESSION, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            archive.add(wheels, f"{release}/site", filter=_as_root)
            for name, data in sorted(files.items()):
                _put(archive, f"{release}/site/{name}", data)
            launcher = _LAUNCHER.format(python=python)
            _put(archive, f"{release}/bin/farshore-mobility", launcher.encode(), mode=0o755)
            _put(archive, f"{release}/{UNIT}", (_HERE / UNIT).read_bytes())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _put(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _dotted(python: PythonVersion) -> str:
    return ".".join(map(str, python))
