"""The committed stubs are what the contract generates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def generated_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*_pb2*.py*")}


def test_committed_stubs_are_up_to_date(tmp_path):
    if not (Path(sys.prefix) / "proto-tools" / "grpc_tools").is_dir():
        pytest.fail("the tools that generate the stubs are not there; run `make setup`")
    subprocess.run(
        [ROOT / "proto" / "generate.sh", tmp_path],
        env={**os.environ, "PYTHON": sys.executable},
        check=True,
    )
    expected = generated_files(tmp_path / "farsim" / "v1")
    committed = generated_files(ROOT / "farsim" / "v1")
    stale = sorted(
        name
        for name in expected.keys() | committed.keys()
        if expected.get(name) != committed.get(name)
    )
    assert not stale, f"{stale} in farsim/v1 are not what proto/ generates; run `make proto`"


def test_without_the_tools_it_says_what_to_do(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\necho {tmp_path}\n")
    bare.chmod(0o755)
    result = subprocess.run(
        [ROOT / "proto" / "generate.sh", tmp_path / "out"],
        env={**os.environ, "PYTHON": str(bare)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "make setup" in result.stderr
    assert not (tmp_path / "out").exists()
