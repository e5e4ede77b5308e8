"""A chunk run is written and read as ever."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from tests.formats.chunk_run import KEY_ID, RUN, golden_entries, golden_run, golden_salts

from farshore.vault.chunk_index.run import SortedRun
from farshore.vault.chunk_index.run_format import Untrusted

GOLDEN = Path(__file__).parent / "golden" / "chunk-run-1.bin"


def test_it_is_written_as_ever():
    assert golden_run() == GOLDEN.read_bytes()


def test_it_is_read_as_ever(tmp_path: Path):
    shutil.copy(GOLDEN, tmp_path / "run")
    run = SortedRun.open(tmp_path / "run", RUN, KEY_ID)
    wanted = golden_entries()
    assert (run.between(0, 1 << 64) == wanted).all()
    assert (run.salts == golden_salts()).all()
    found, locators = run.find(wanted["high"], wanted["low"])
    assert found.all()
    for field in ("ordinal", "offset", "stored"):
        assert (locators[field] == wanted[field]).all()
    assert [one.tobytes() for one in locators["salt"]] == [golden_salts()[pack].tobytes() for pack in wanted["pack"]]
    assert not run.find(wanted["high"], wanted["low"] ^ np.uint64(1))[0].any()


def test_a_later_version_is_refused(tmp_path: Path):
    data = bytearray(GOLDEN.read_bytes())
    data[-120] = 2
    data[-16:] = blake3(bytes(data[-128:-16])).digest(16)
    (tmp_path / "run").write_bytes(data)
    with pytest.raises(Untrusted, match="another version"):
        SortedRun.open(tmp_path / "run", RUN, KEY_ID)
