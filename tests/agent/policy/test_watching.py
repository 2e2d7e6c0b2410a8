"""Newer checkpoints come into service; what cannot be used does not."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from agent.policy import loading
from agent.policy.inference import CheckpointInference
from agent.policy.watching import Watcher
from agent.training import checkpoint as checkpoints


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A run whose latest checkpoint is its first."""
    folder = tmp_path / "run"
    shutil.copytree(trained / "masked", folder)
    checkpoints.point_to(folder, folder / "checkpoints" / "000001")
    return folder


def watch(path: Path, **settings: float) -> tuple[CheckpointInference, Watcher]:
    source = loading.find(path)
    inference = CheckpointInference(loading.load(source))
    return inference, Watcher(path, source, inference.add, **settings)


def test_a_run_is_followed(run):
    inference, watcher = watch(run)
    assert watcher.look() == 0
    checkpoints.point_to(run, run / "checkpoints" / "000002")
    assert watcher.look() == 2
    assert inference.versions("default_policy") == [1, 2]
    assert watcher.look() == 0


def test_what_cannot_be_used_is_told_once_and_left_alone(run, trained, caplog):
    inference, watcher = watch(run)
    broken = run / "checkpoints" / "000002"
    (broken / "policy" / "arrays.npz").write_bytes(b"PK")
    checkpoints.point_to(run, broken)
    assert watcher.look() == 0
    assert "000002 is not used" in caplog.text and "damaged" in caplog.text
    assert watcher.failures == 1
    assert watcher.look() == 0
    assert watcher.failures == 1
    assert inference.versions("default_policy") == [1]

    shutil.copytree(trained / "masked" / "checkpoints" / "000002", run / "checkpoints" / "000003")
    checkpoints.point_to(run, run / "checkpoints" / "000003")
    assert watcher.look() == 2


def test_it_looks_by_itself_until_it_is_stopped(run):
    source = loading.find(run)
    inference = CheckpointInference(loading.load(source))
    added = threading.Event()

    def add(recipe):
        number = inference.add(recipe)
        added.set()
        return number

    watcher = Watcher(run, source, add, interval=0.01)
    watcher.start()
    checkpoints.point_to(run, run / "checkpoints" / "000002")
    assert added.wait(30)
    watcher.stop()
    assert inference.versions("default_policy") == [1, 2]


def test_a_folder_that_is_gone_for_a_moment_is_no_failure(run):
    inference, watcher = watch(run)
    moved = run.with_name("moved")
    run.rename(moved)
    assert watcher.look() == 0
    moved.rename(run)
    assert watcher.failures == 0
    assert inference.versions("default_policy") == [1]
