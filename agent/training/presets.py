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

_PARTICLE = "particle/"

#: Observations and rewards are around 1 and episodes 25 steps long in all nine scenarios.
_PARTICLE_PPO: dict[str, dict[str, Any]] = {
    "training": {
        "gamma": 0.95,
        "lambda_": 0.95,
        "lr": 7e-4,
        "train_batch_size_per_learner": 6400,
        "minibatch_size": 3200,
        "num_epochs": 8,
        "clip_param": 0.2,
        "use_kl_loss": False,
        "entropy_coeff": 0.01,
        "vf_clip_param": float("inf"),
        "vf_loss_coeff": 0.05,
        "grad_clip": 0.5,
    },
    "env_runners": {"num_envs_per_env_runner": 64},
}
_PARTICLE_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # The rest are the defaults of ``MADDPGConfig``, which were found on these scenarios.
    "MADDPG": {"env_runners": {"num_envs_per_env_runner": 64}},
    "PPO": {
        **_PARTICLE_PPO,
        "rl_module": {
            "model_config": {
                "fcnet_hiddens": [128, 128],
                "fcnet_activation": "relu",
                # One network for both would be pulled about by values many times the policy's loss.
                "vf_share_layers": False,
            }
        },
    },
    "MAPPO": _PARTICLE_PPO,
}


def default_algorithm(simulator: str) -> str:
    """What a simulator is trained with unless someone says otherwise."""
    return "MADDPG" if simulator.startswith(_PARTICLE) else "PPO"


def preset(simulator: str, algo: str) -> Mapping[str, Mapping[str, Any]]:
    """Settings by section and name; RLlib's defaults hold for all others."""
    if simulator.startswith(_PARTICLE):
        return _PARTICLE_PRESETS.get(algo, _GENERAL)
    return _PRESETS.get((simulator, algo), _GENERAL)
