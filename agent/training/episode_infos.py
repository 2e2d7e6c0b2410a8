"""What the simulator says at the end of an episode, as RLlib metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.callbacks.callbacks import RLlibCallback

from agent.training.iteration import INFO

#: Numbers that every step has and that say nothing about an episode, or that Gymnasium adds.
_LEFT_OUT = {"action_mask", "final_info", "final_obs"}


def scalars(info: dict[str, Any]) -> dict[str, float]:
    """The numbers in one environment's info, by name; members of nested infos joined by "/"."""
    found: dict[str, float] = {}
    for name, value in info.items():
        if name in _LEFT_OUT or name.startswith("_"):
            continue
        if isinstance(value, dict):
            found |= {f"{name}/{inner}": number for inner, number in scalars(value).items()}
        elif np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf":
            found[name] = float(value)
    return found


class EpisodeInfos(RLlibCallback):
    """Logs every number in an episode's last info under ``info/<name>``, as a moving mean."""

    def on_episode_end(
        self,
        *,
        episode: Any,
        env_runner: Any = None,
        metrics_logger: Any = None,
        **kwargs: Any,
    ) -> None:
        window = env_runner.config.metrics_num_episodes_for_smoothing
        for name, value in scalars(episode.get_infos(-1)).items():
            if np.isfinite(value):
                key = (INFO, *name.split("/"))
                metrics_logger.log_value(key, value, reduce="mean", window=window)
