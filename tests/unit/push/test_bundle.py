"""The bundle: complete, nothing of the servers in it, the same name for the same contents."""

from __future__ import annotations

import hashlib
import sys
import tarfile
from pathlib import Path

import pytest

from farshore.model.errors import NotFound, TryLater, Unsupported
from farshore.protection.push import bundle
from farshore.protection.push.bundle import build_bundle


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(python: tuple[int, int], target: Path) -> None:
        for name in ("numpy", "numpy/tests", "bin", "numpy-2.0.0.dist-info"):
            (target / name).mkdir(parents=True)
        (target / "numpy/__init__.py").write_text("")
        (target / "numpy/tests/test_it.py").write_text("")
        (target / "bin/f2py").write_text("")
        (target / "numpy/__init__.pyi").write_text("")

    monkeypatch.setattr(bundle, "_download", download)


def contents(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {entry.name: entry for entry in archive}


def test_it_holds_the_agent_and_nothing_of_the_servers(tmp_path: Path) -> None:
    made = build_bundle((3, 9), tmp_path)
    names = contents(made.path)
    site = f"{made.release}/site"
    for wanted in ("mobility/main.py", "mobility/capture/bitmap.bpf.o", "client/transport.py", "model/errors.py"):
        assert f"{site}/farshore/{wanted}" in names
    assert any("lib/libbpf.so" in name for name in names)
    assert f"{made.release}/farshore-mobility.service" in names
    assert names[f"{made.release}/bin/farshore-mobility"].mode == 0o755
    ours = {name.split("/")[3] for name in names if name.startswith(f"{site}/farshore/")}
    assert ours == {*bundle.OUR_MODULES, *bundle.OUR_PACKAGES}
    assert f"{site}/numpy/__init__.py" in names
    assert not any("tests" in name or name.endswith((".pyi", "f2py")) for name in names)
    assert all(entry.uid == 0 for entry in names.values())


def test_the_launcher_runs_the_release_that_it_lies_in_on_its_own_python(tmp_path: Path) -> None:
    made = build_bundle((3, 12), tmp_path)
    with tarfile.open(made.path) as archive:
        found = archive.extractfile(f"{made.release}/bin/farshore-mobility")
        assert found is not None
        text = found.read().decode()
    assert text.startswith("#!/usr/bin/env -S python3.12 -I\n")
    assert 'Path(__file__).resolve().parent.parent / "site"' in text
    compile(text, "launcher", "exec")


def test_the_release_for_a_python_is_known_once_there_is_a_bundle(tmp_path: Path) -> None:
    assert bundle.known_release("3.9", tmp_path) == ""
    made = build_bundle((3, 9), tmp_path)
    assert bundle.known_release("3.9", tmp_path) == made.release
    assert bundle.known_release("", tmp_path) == ""
    assert bundle.bundle_path(made.release, tmp_path) == made.path
    assert made.digest() == hashlib.sha256(made.path.read_bytes()).hexdigest()


@pytest.mark.parametrize("release", ["absent", "../secret", "", "a/b"])
def test_only_bundles_are_given_out(tmp_path: Path, release: str) -> None:
    (tmp_path.parent / "secret").write_text("x")
    with pytest.raises(NotFound):
        bundle.bundle_path(release, tmp_path)


def test_the_same_contents_have_the_same_name_and_others_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_bundle((3, 9), tmp_path)
    assert build_bundle((3, 9), tmp_path) == first
    monkeypatch.setattr(bundle, "_LAUNCHER", bundle._LAUNCHER + "# changed\n")
    assert build_bundle((3, 9), tmp_path).release != first.release
    assert build_bundle((3, 10), tmp_path).release.startswith("0.1.0-python3.10-")


def test_libraries_are_compiled_where_our_python_is_the_guests(tmp_path: Path) -> None:
    made = build_bundle((sys.version_info[0], sys.version_info[1]), tmp_path)
    assert any(name.endswith(".pyc") for name in contents(made.path))
    assert not any(name.endswith(".pyc") for name in contents(build_bundle((3, 9), tmp_path).path))


def test_an_unknown_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"Python 3\.8"):
        build_bundle((3, 8), tmp_path)


def test_without_the_package_index_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(bundle, "find_uv_bin", lambda: "/bin/false")
    with pytest.raises(TryLater, match="could not be fetched"):
        build_bundle((3, 9), tmp_path)
    assert not list(tmp_path.glob("*"))


def test_the_libraries_contents_are_part_of_the_releases_name(tmp_path: Path) -> None:
    first = build_bundle((3, 9), tmp_path)
    (library,) = tmp_path.glob("wheels-*/numpy/__init__.py")
    library.write_text("import os")
    assert build_bundle((3, 9), tmp_path).release != first.release
