"""Replay of joint transitions: one row is one environment step of all agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from agent.maddpg.cast import Cast, Role
from agent.maddpg.module import observation_size

#: Column: bool, whether the agent acted in this step and saw what came of it.
VALID = "valid"

_FIRST_ROWS = 4096

Rows = dict[str, NDArray[Any]]


class JointReplay:
    """A ring of environment steps, each with what all agents saw, did and got.

    A batch has for each module the columns ``obs`` and ``new_obs`` float32 [n, agents, size],
    ``actions`` [n, agents, *shape], ``rewards`` float32, ``terminateds`` and ``valid`` bool [n,
    agents], the agents in the order of the module's ``Role``. Row i is the same step of the same
    environment in all of them: this is what RLlib's own buffers for several agents do not give.

    An agent that has left, or has yet to come, has zeros and is not ``valid``.

    Args:
        cast: the agents.
        capacity: rows kept; memory is taken as they come.
        seed: of the draws.
    """

    def __init__(self, cast: Cast, capacity: int, seed: int | None = None) -> None:
        self._cast = cast
        self._capacity = capacity
        self._random = np.random.default_rng(seed)
        self._size = 0
        self._next = 0
        rows = min(_FIRST_ROWS, capacity)
        self._columns = {name: _empty(role, rows) for name, role in cast.items()}

    def __len__(self) -> int:
        return self._size

    def add(self, episodes: Sequence[MultiAgentEpisode]) -> int:
        """Adds the steps of episodes, or of pieces of them, whose data is in arrays.

        Returns:
            how many steps those were.
        """
        added = 0
        for episode in episodes:
            length = len(episode)
            if length:
                self.add_rows(
                    {name: _rows_of(episode, role, length) for name, role in self._cast.items()}
                )
            added += length
        return added

    def add_rows(self, rows: Mapping[str, Rows]) -> None:
        """Adds steps as they are in a batch."""
        count = len(next(iter(rows.values()))[Columns.REWARDS])
        if count > self._capacity:
            rows = {
                name: {column: values[-self._capacity :] for column, values in columns.items()}
                for name, columns in rows.items()
            }
            count = self._capacity
        self._grow(self._next + count)
        places = np.arange(self._next, self._next + count) % self._capacity
        for name, columns in rows.items():
            for column, values in columns.items():
                self._columns[name][column][places] = values
        self._next = int(places[-1] + 1) % self._capacity
        self._size = min(self._size + count, self._capacity)

    def sample(self, count: int) -> MultiAgentBatch:
        """Steps drawn uniformly, with replacement."""
        places = self._random.integers(self._size, size=count)
        batches = {
            name: SampleBatch({column: values[places] for column, values in columns.items()})
            for name, columns in self._columns.items()
        }
        return MultiAgentBatch(batches, env_steps=count)

    def get_state(self) -> dict[str, Any]:
        """Everything there is, for a checkpoint."""
        kept = {
            name: {column: values[: self._size].copy() for column, values in columns.items()}
            for name, columns in self._columns.items()
        }
        return {"columns": kept, "next": self._next, "random": self._random.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Puts back what ``get_state`` gave; the oldest go if there are more than fit."""
        columns = state["columns"]
        size = len(next(iter(columns.values()))[Columns.REWARDS])
        order = (np.arange(size) + state["next"]) % size if size else np.arange(0)
        self._size = self._next = 0
        if size:
            self.add_rows(
                {
                    name: {column: values[order] for column, values in parts.items()}
                    for name, parts in columns.items()
                }
            )
        self._random.bit_generator.state = state["random"]

    def _grow(self, needed: int) -> None:
        have = len(next(iter(self._columns.values()))[Columns.REWARDS])
        if needed <= have or have == self._capacity:
            return
        rows = min(self._capacity, max(needed, 2 * have))
        for columns in self._columns.values():
            for column, values in columns.items():
                larger = np.zeros((rows, *values.shape[1:]), values.dtype)
                larger[:have] = values
                columns[column] = larger


def _empty(role: Role, rows: int) -> Rows:
    agents, size = len(role.agents), observation_size(role.observation_space)
    space = role.action_space
    return {
        Columns.OBS: np.zeros((rows, agents, size), np.float32),
        Columns.NEXT_OBS: np.zeros((rows, agents, size), np.float32),
        Columns.ACTIONS: np.zeros((rows, agents, *(space.shape or ())), space.dtype),
        Columns.REWARDS: np.zeros((rows, agents), np.float32),
        Columns.TERMINATEDS: np.zeros((rows, agents), np.bool_),
        VALID: np.zeros((rows, agents), np.bool_),
    }


def _rows_of(episode: MultiAgentEpisode, role: Role, length: int) -> Rows:
    """The steps of a role's agents."""
    rows = _empty(role, length)
    for place, agent in enumerate(role.agents):
        own: SingleAgentEpisode | None = episode.agent_episodes.get(agent)
        if own is None or not len(own):
            continue
        steps, env_steps = _acted(episode, agent, own, length)
        observation = np.asarray(own.observations.data, np.float32)
        observation = observation.reshape(len(observation), -1)
        at = steps + own.observations.lookback
        rows[Columns.OBS][env_steps, place] = observation[at]
        rows[Columns.NEXT_OBS][env_steps, place] = observation[at + 1]
        rows[Columns.ACTIONS][env_steps, place] = own.get_actions()[steps]
        rows[Columns.REWARDS][env_steps, place] = own.get_rewards()[steps]
        # An episode that reaches its time limit goes on, as far as values are concerned. RLlib
        # calls it terminated as well where every agent reports the limit on its own.
        if own.is_terminated and not own.is_truncated and steps.size and steps[-1] == len(own) - 1:
            rows[Columns.TERMINATEDS][env_steps[-1], place] = True
        rows[VALID][env_steps, place] = True
    return rows


def _acted(
    episode: MultiAgentEpisode, agent: str, own: SingleAgentEpisode, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Steps of an agent that took one step of its environment, in its own count and in that one."""
    if len(own) == length:
        steps = np.arange(length)
        return steps, steps
    mapping = episode.env_t_to_agent_t[agent]
    seen = np.array(
        [
            env_step
            for env_step, tag in enumerate(mapping.data[mapping.lookback :])
            if tag != episode.SKIP_ENV_TS_TAG
        ],
        np.int64,
    )
    # What it did at one step may be answered later, when turns are taken: no joint transition.
    together = np.flatnonzero(np.diff(seen[: len(own) + 1]) == 1)
    return together, seen[together]
