"""Servers that many tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.servers import Serving, serving

# The same examples in every run: whether a change may land must not hang on a draw, nor on how
# busy the machine is. Look further with `--hypothesis-profile=default` and `--hypothesis-seed`.
hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None)
hypothesis.settings.load_profile("reproducible")

# Before anything imports PyTorch. Networks here are small, and two tests go at a time: threads of
# theirs would only wait for each other, each with a processor of its own to wait on.
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: Files that take a minute or more, longest first.
LONGEST = (
    "deploy/test_docker.py",
    "examples/test_cpp.py",
    "agent/training/test_many_agents.py",
    "agent/training/test_ray_cluster.py",
    "agent/live_training/test_mixed.py",
    "agent/live_training/test_train_live.py",
    "agent/live_training/test_algorithms.py",
    "examples/test_node.py",
    "agent/test_integrity.py",
    "deploy/test_network_namespaces.py",
    "agent/training/test_neighbours.py",
    "deploy/test_ray_scripts.py",
    "agent/training/test_train.py",
    "agent/training/test_algorithms.py",
    "agent/evaluation/test_evaluate_many_agents.py",
    "agent/training/test_train_many_agents.py",
    "agent/live_training/test_greeting.py",
    "agent/evaluation/test_evaluate.py",
    "agent/policy/test_parity.py",
    "agent/test_env_runner.py",
    "simserver/bonsai/test_training.py",
    "agent/training/test_tracking.py",
    "agent/maddpg/test_algorithm.py",
    "agent/gateway/test_train.py",
    "agent/gateway/test_fleet.py",
    "agent/mappo/test_mappo.py",
    "farsim/check/test_broken.py",
    "farsim/check/test_broken_policies.py",
    "agent/live/test_misbehaviour.py",
    "test_install.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, so that with two at a time none is left to go alone."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Serving]:
    """Offers ``adder``, ``gymnasium/CartPole-v1`` and the environments of ``tests.simulators``.

    Only for tests that leave it as it was.
    """
    with serving(
        "adder",
        "gymnasium/CartPole-v1",
        "tests.simulators.envs:Slow",
        "tests.simulators.envs:Masked",
    ) as server:
        yield server
