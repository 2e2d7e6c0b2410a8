"""Settings that are known to work for a simulator, used unless a training file says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: For every simulator: a request over the network costs about the same for 32 environments as for
#: one, which is RLlib's default.
_GENERAL: dict[str, dict[str, Any]] = {"env_runners": {"num_envs_per_env_runner": 32}}

#: As in a training file, by simulator and algorithm.
_PRESETS: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("deeprm", "PPO"): {
        "training": {
            # The reward is minus the slowdown so far: nothing is worth less for being later.
            "gamma": 1.0,
            # Longer traces of reward drown the value of one decision in that of fifty others.
            "lambda_": 0.95,
            "lr": [[0, 2e-3], [600_000, 2e-4]],
            "train_batch_size_per_learner": 8192,
            "minibatch_size": 1024,
            "num_epochs": 4,
            "clip_param": 0.2,
            "use_kl_loss": False,
            "entropy_coeff": 0.01,
            # Returns are in the hundreds: unclipped, and weighed to match the policy's loss.
            "vf_clip_param": float("inf"),
            "vf_loss_coeff": 0.005,
            "grad_clip": 0.5,
        },
        "env_runners": {"num_envs_per_env_runner": 64},
    }
}


def preset(simulator: str, algo: str) -> Mapping[str, Mapping[str, Any]]:
    """Settings by section and name; RLlib's defaults hold for all others."""
    return _PRESETS.get((simulator, algo), _GENERAL)
