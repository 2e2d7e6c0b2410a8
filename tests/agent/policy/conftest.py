"""Checkpoints that all tests of policies share."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder with a checkpoint of each kind, as ``trained.main`` makes them; read only.

    In a process of its own, so that this one has no Ray: serving must do without.
    """
    folder = tmp_path_factory.getbasetemp() / "trained"
    if "PYTEST_XDIST_WORKER" in os.environ:
        # What all processes of this run of the tests have in common.
        folder = folder.parents[1] / "trained"
    done = folder / "done"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(folder)
            done.touch()
    return folder


def make(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    # By name, since what RLlib pickles of these classes is looked up there.
    command = "from tests.agent.policy.trained import main; import pathlib, sys; "
    command += "main(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", command, str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout
