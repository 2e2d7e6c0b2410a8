"""Whom ``farsim train`` lets learn."""

from __future__ import annotations

import pytest

from agent.learning import PPOLearner
from agent.training.algorithm import ALGORITHMS, _default_config


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_ppo_learns_with_less_besides(algo: str) -> None:
    learner = _default_config(algo).learner_class
    assert (learner is PPOLearner) == (algo in ("PPO", "MAPPO"))
