"""What environments go through, in blocks over time, and RLlib's episodes cut out of them."""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray
from ray.rllib.env import single_agent_episode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.utils.spaces.space_utils import get_base_struct_from_space

from agent.sampling.columns import BoolArray, Column, IntArray, end_with

Info = Mapping[str, Any]

_REWARDS = (
    single_agent_episode._REWARDS_BOX_SPACE,
    get_base_struct_from_space(single_agent_episode._REWARDS_BOX_SPACE),
)


class Fragment:
    """Blocks [time, environments, ...] that grow step by step.

    At every time an environment has an observation; the action and the reward at that time are
    what followed it. An environment's chunk is what its running episode has gone through since it
    was handed out last.

    Args:
        num_envs: how many environments.
        lookback: steps before a chunk that it carries along, RLlib's ``episode_lookback_horizon``.
        observation_space: of one environment, as the network sees it.
        action_space: of one environment, as the network sees it.
    """

    def __init__(
        self,
        num_envs: int,
        lookback: int,
        observation_space: Space[Any],
        action_space: Space[Any],
    ) -> None:
        self.num_envs = num_envs
        self._horizon = lookback
        self._observation = Column(num_envs)
        self._action = Column(num_envs)
        self._reward = Column(num_envs)
        self._extras: dict[str, Column] = {}
        #: Since when each of ``_extras`` is there.
        self._extras_since: dict[str, int] = {}
        #: Which of them the present chunks have.
        self._said: set[str] = set()
        #: By time, the infos of all environments; None where all are empty.
        self._infos: list[Sequence[Info] | None] = []
        #: By time, when an observation came, on the clock of ``time.perf_counter``.
        self._clock: list[float] = []
        #: Of the last observation.
        self.time = -1
        #: Where each environment's chunk begins, and how many steps there are before it.
        self._begin = np.zeros(num_envs, np.int64)
        #: The sum of ``_begin``.
        self._begins = 0
        self._before = np.zeros(num_envs, np.int64)
        #: Steps of the episode before the chunk.
        self._started = np.zeros(num_envs, np.int64)
        self._observed = (observation_space, get_base_struct_from_space(observation_space))
        self._acted = (action_space, get_base_struct_from_space(action_space))

    # -- recording ------------------------------------------------------------------------

    def see(self, observation: Any, infos: Sequence[Info] | None) -> None:
        """Adds what environments show now.

        Args:
            observation: a nest of arrays [environments, ...].
            infos: of every environment; None if all are empty.
        """
        self.time += 1
        self._observation.put(self.time, observation)
        self._infos.append(infos)
        self._clock.append(time.perf_counter())

    def acted(self, action: Any, extras: Mapping[str, Any]) -> None:
        """Adds what is done about what was seen last.

        Args:
            action: a nest of arrays [environments, ...].
            extras: such nests by name.
        """
        self._action.put(self.time, action)
        self._said.update(extras)
        for name, values in extras.items():
            column = self._extras.get(name)
            if column is None:
                column = self._extras[name] = Column(self.num_envs)
                column.start(self.time)
                self._extras_since[name] = self.time
            column.put(self.time, values)

    def rewarded(self, reward: NDArray[np.float64]) -> None:
        """Adds what came of it; ``see`` comes next."""
        self._reward.put(self.time, reward)

    def restart(self, rows: BoolArray | IntArray) -> None:
        """What environments show now is the first observation of an episode."""
        self._begin[rows] = self.time
        self._begins = int(self._begin.sum())
        self._before[rows] = 0
        self._started[rows] = 0

    # -- handing out ----------------------------------------------------------------------

    def length(self, row: int, until: int) -> int:
        """Steps in an environment's chunk up to the observation at ``until``."""
        return until - int(self._begin[row])

    def lengths(self) -> int:
        """Steps in all chunks together."""
        return self.time * self.num_envs - self._begins

    def steps(self, row: int, until: int) -> int:
        """Steps of its running episode, handed out or not."""
        return int(self._started[row]) + self.length(row, until)

    def fill(
        self, episode: Any, row: int, until: int, final: tuple[Any, Info] | None = None
    ) -> None:
        """Puts an environment's chunk into an empty episode.

        Args:
            episode: a ``SingleAgentEpisode``, of which only its identity and custom data stay.
            row: the environment.
            until: the time of the last observation.
            final: that observation, a nest of arrays [...], and its info, where the next episode
                had begun by then; None where they were seen.
        """
        begin, before = int(self._begin[row]), int(self._before[row])
        past = slice(begin - before, until)
        seen = slice(begin - before, until + 1)
        observed, infos = self._observation.part(seen, row), self._infos_of(row, seen)
        if final is not None:
            end_with(observed, final[0])
            infos[-1] = final[1]
        episode.observations = _buffer(observed, before, *self._observed)
        episode._observation_space = self._observed[0]
        episode.infos = _buffer(infos, before, None, None)
        episode.actions = _buffer(self._action.part(past, row), before, *self._acted)
        episode._action_space = self._acted[0]
        episode.rewards = _buffer(self._reward.part(past, row), before, *_REWARDS)
        episode.extra_model_outputs = {}
        for name, column in self._extras.items():
            if name not in self._said:
                continue
            start = max(begin - before, self._extras_since[name])
            values = column.part(slice(start, until), row)
            episode.extra_model_outputs[name] = _buffer(values, begin - start, None, None)
        episode.t_started = int(self._started[row])
        episode.t = episode.t_started + until - begin
        first = begin if not episode.t_started else min(begin + 1, until)
        episode._start_time = self._clock[first]
        episode._last_step_time = self._clock[until] if until > begin else None

    def last(self, row: int) -> tuple[Any, Info]:
        """What an environment shows now, and its info."""
        infos = self._infos[self.time]
        return self._observation.at(self.time, row), infos[row] if infos is not None else {}

    def continue_all(self, over: BoolArray) -> None:
        """Every chunk has been handed out; the next ones go on from here.

        Args:
            over: bool [environments]: whose episode is over, and has not begun anew.
        """
        kept = min(self._horizon, self.time)
        first = self.time - kept
        before = np.minimum(self.time - self._begin + self._before, kept)
        self._started += self.time - self._begin
        self._before = np.where(over, 0, before)
        self._begin[:] = kept
        self._begins = kept * self.num_envs
        for column in (self._observation, self._action, self._reward):
            column.keep(first, self.time)
        for name in list(self._extras):
            if name in self._said:
                self._extras[name].keep(first, self.time)
                self._extras_since[name] = max(0, self._extras_since[name] - first)
            else:
                del self._extras[name], self._extras_since[name]
        self._said = set()
        self._infos = self._infos[first:]
        self._clock = self._clock[first:]
        self.time = kept

    def _infos_of(self, row: int, times: slice) -> list[Info]:
        found = self._infos[times]
        if not any(found):
            return [{} for _ in found]
        return [{} if infos is None else infos[row] or {} for infos in found]


def empty(name: str | None = None, shown: bool = True) -> SingleAgentEpisode:
    """An episode with nothing in it yet; a tenth of the time that its constructor takes.

    Args:
        name: of the episode that it goes on with.
        shown: whether anybody sees it before ``fill``, without which it else lacks its buffers.
    """
    episode = object.__new__(SingleAgentEpisode)
    episode.id_ = name or secrets.token_hex(16)
    episode.agent_id = episode.module_id = episode.multi_agent_episode_id = None
    if shown:
        episode.observations, episode.infos = _buffer([], 0, None, None), _buffer([], 0, None, None)
        episode.actions, episode.rewards = _buffer([], 0, None, None), _buffer([], 0, *_REWARDS)
        episode._observation_space = episode._action_space = None
        episode.extra_model_outputs = {}
    episode.is_terminated = episode.is_truncated = False
    episode.t_started = episode.t = 0
    episode._custom_data = {}
    episode._start_time = episode._last_step_time = None
    episode._last_added_observation = episode._last_added_infos = None
    return episode


def continued(episode: SingleAgentEpisode, shown: bool = True) -> SingleAgentEpisode:
    """The empty next chunk of an episode; ``shown`` as at ``empty``."""
    after = empty(episode.id_, shown)
    if episode.custom_data:
        after._custom_data = copy.deepcopy(episode.custom_data)
    return after


def _buffer(
    data: Any, lookback: int, space: Space[Any] | None, struct: Any
) -> InfiniteLookbackBuffer:
    # Its constructor, and the setter of its space, would take the space apart for each episode.
    buffer = object.__new__(InfiniteLookbackBuffer)
    buffer.data, buffer.lookback, buffer.finalized = data, lookback, not isinstance(data, list)
    buffer._space, buffer._space_struct = space, struct
    return buffer
