"""What the other agents saw, for the training batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override

from agent.maddpg.cast import others_of
from agent.maddpg.module import observation_size

#: Column: float32 [numbers], the others' observations side by side, in the order of ``others_of``.
OTHERS = "others_obs"


class AddOthersObservations(ConnectorV2):
    """Adds to each agent's step the observations that the others had at that time.

    Zeros for agents that have left or are yet to come. Expects episodes with the additional last
    step that RLlib's PPO gives them.
    """

    @override(ConnectorV2)
    def __call__(
        self, *, rl_module: Any, batch: dict[str, Any], episodes: list[Any], **kwargs: Any
    ) -> Any:
        modules = {name: module.unwrapped() for name, module in rl_module.items()}
        cast = next(iter(modules.values())).model_config["agents"]
        sizes = {
            agent: observation_size(modules[name].observation_space)
            for name, agents in cast.items()
            for agent in agents
        }
        for episode in episodes:
            seen = {
                agent: _seen(episode, own, sizes[str(agent)])
                for agent, own in episode.agent_episodes.items()
            }
            for agent, own in episode.agent_episodes.items():
                when, _ = seen[agent]
                others = [
                    _at(when, *seen[other]) if other in seen else _zeros(when, sizes[other])
                    for other in others_of(cast, own.module_id, agent)
                ]
                rows = np.concatenate([*others, _zeros(when, 0)], axis=1)
                self.add_n_batch_items(batch, OTHERS, rows, len(rows), own)
        return batch


def _seen(
    episode: MultiAgentEpisode, own: SingleAgentEpisode, size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """When an agent saw something, in environment steps from the piece's start, and what.

    int64 [length] and float32 [length, size]; the length is that of the longer episode.
    """
    mapping = episode.env_t_to_agent_t[own.agent_id]
    tags = mapping.data[mapping.lookback :]
    when = [step for step, tag in enumerate(tags) if tag != episode.SKIP_ENV_TS_TAG]
    observations = np.asarray(own.get_observations(slice(0, len(own))), np.float32)
    observations = observations.reshape(len(observations), size)
    return np.array(when[: len(observations)], np.int64), observations


def _at(
    when: NDArray[np.int64], times: NDArray[np.int64], observations: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The latest of ``observations``, made at ``times``, at each of ``when``; else zeros."""
    if len(when) == len(times) and (when == times).all():
        return observations
    latest = np.searchsorted(times, when, side="right") - 1
    there = (latest >= 0) & (when <= times[-1])
    return np.where(there[:, None], observations[latest], np.float32(0))


def _zeros(when: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    return np.zeros((len(when), size), np.float32)
