"""RLlib's metrics of complete episodes, where these are many and short."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ray.rllib.core import DEFAULT_AGENT_ID, DEFAULT_MODULE_ID
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils import metrics as names

_LENGTHS = (names.EPISODE_LEN_MEAN, names.EPISODE_LEN_MIN, names.EPISODE_LEN_MAX)
_RETURNS = (names.EPISODE_RETURN_MEAN, names.EPISODE_RETURN_MIN, names.EPISODE_RETURN_MAX)
_RETURNS_OF = {
    "agent_episode_return_mean": DEFAULT_AGENT_ID,
    "module_episode_return_mean": DEFAULT_MODULE_ID,
}
_SECONDS = names.EPISODE_DURATION_SEC_MEAN


class EpisodeMetrics:
    """For an env runner class to inherit before RLlib's: logs the same in less time."""

    config: Any
    metrics: Any
    _done_episodes_for_metrics: Any
    _ongoing_episodes_for_metrics: Any

    def keep_for_metrics(self, complete: Sequence[SingleAgentEpisode]) -> None:
        """Remembers episodes that are over until someone asks for metrics."""
        done = self._done_episodes_for_metrics
        done.extend(complete)
        if type(self)._log_episode_metrics is not EpisodeMetrics._log_episode_metrics:
            return
        # All that RLlib logs of them has this window, so that nothing would be left of the others.
        runners = self.config.num_env_runners or 1
        window = max(1, math.ceil(self.config.metrics_num_episodes_for_smoothing / runners))
        for episode in done[:-window]:
            self._ongoing_episodes_for_metrics.pop(episode.id_, None)
        del done[:-window]

    def _log_episode_metrics(self, length: int, ret: float, sec: float) -> None:
        stats = self.metrics.stats
        if _SECONDS not in stats:
            # The first one; RLlib settles what to keep of each.
            super()._log_episode_metrics(length, ret, sec)  # type: ignore[misc]
            return
        for name in _LENGTHS:
            stats[name].push(length)
        for name in _RETURNS:
            stats[name].push(ret)
        for name, whose in _RETURNS_OF.items():
            stats[name][whose].push(ret)
        stats[_SECONDS].push(sec)
