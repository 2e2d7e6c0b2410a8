"""RLlib's episodes, made of what live simulators went through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gymnasium.spaces import Dict
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from agent.live.experience import Chunk, Lived, Seen, Together
from agent.live.inference import Decision
from agent.live.learned import Seat

#: What every transition has, whoever has chosen the action.
_COMMON = (Columns.STATE_OUT, WEIGHTS_SEQ_NO)


class EpisodeMaker:
    """Makes RLlib's episodes.

    Args:
        seats: of all policies, by name.
        on_policy: whether the learner wants to know what the policy said of its actions; if not,
            there may be actions that were not the policy's.
        to_numpy: RLlib's setting: episodes of arrays, rather than of lists.
    """

    def __init__(self, seats: Mapping[str, Seat], on_policy: bool, to_numpy: bool = True) -> None:
        self._seats, self._on_policy, self._to_numpy = seats, on_policy, to_numpy

    def single(self, chunk: Chunk) -> SingleAgentEpisode:
        """A chunk as an episode, or as a part of one."""
        return self._episode(chunk, _name(chunk), {})

    def several(self, found: Together, policy_of: Callable[..., str]) -> list[MultiAgentEpisode]:
        """Chunks of the same live episode as parts of one.

        Agents that have missed something (see ``Chunk.piece``) get episodes of their own.

        Args:
            found: the chunks.
            policy_of: RLlib's ``policy_mapping_fn``.
        """
        whole = [chunk for chunk in found.chunks if not chunk.piece]
        episodes = []
        if whole:
            together = Together(whole, found.since, found.until)
            episodes.append(self._together(together, _name(whole[0]), policy_of))
        for chunk in found.chunks:
            if chunk.piece:
                alone = Together((chunk,), chunk.lived[0].time, chunk.last_time)
                name = f"{_name(chunk)}-{chunk.agent}"
                episodes.append(self._together(alone, name, policy_of))
        return episodes

    def _together(
        self, found: Together, name: str, policy_of: Callable[..., str]
    ) -> MultiAgentEpisode:
        chunks = found.chunks
        spaces = {
            chunk.agent: (seat.observation_space, seat.action_space)
            for chunk in chunks
            if (seat := self._seats[chunk.policy])
        }
        episode = MultiAgentEpisode(
            id_=name,
            observation_space=Dict({agent: pair[0] for agent, pair in spaces.items()}),
            action_space=Dict({agent: pair[1] for agent, pair in spaces.items()}),
            agent_to_module_mapping_fn=policy_of,
        )
        episode.env_t_started, episode.env_t = found.since, found.until
        for chunk in chunks:
            more = {
                "agent_id": chunk.agent,
                "module_id": chunk.policy,
                "multi_agent_episode_id": name,
            }
            episode._agent_to_module_mapping[chunk.agent] = chunk.policy
            part = self._episode(chunk, f"{name}_{chunk.agent}", more)
            episode.agent_episodes[chunk.agent] = part
            episode.agent_t_started[chunk.agent] = chunk.started
            episode.env_t_to_agent_t[chunk.agent] = InfiniteLookbackBuffer(_clock(chunk, found))
        if all(chunk.terminated or chunk.truncated for chunk in chunks):
            episode.is_terminated = all(chunk.terminated for chunk in chunks)
            episode.is_truncated = not episode.is_terminated
        return episode

    def _episode(self, chunk: Chunk, name: str, more: Mapping[str, Any]) -> SingleAgentEpisode:
        seat = self._seats[chunk.policy]
        before = [chunk.before] if chunk.before is not None else []
        lived: list[Lived] = [*before, *chunk.lived]
        seen: list[Decision | Seen] = [*(one.decision for one in lived), chunk.last]
        columns = [self._columns(one.decision) for one in lived]
        names = set.intersection(*map(set, columns))
        episode = SingleAgentEpisode(
            id_=name,
            observation_space=seat.observation_space,
            observations=self._observations(seat, seen),
            action_space=seat.action_space,
            actions=[self._action(seat, one.decision) for one in lived],
            rewards=[one.reward for one in lived],
            infos=[{} for _ in seen],
            extra_model_outputs={
                column: [of_one[column] for of_one in columns] for column in sorted(names)
            },
            terminated=chunk.terminated,
            truncated=chunk.truncated,
            t_started=chunk.started,
            len_lookback_buffer=len(before),
            **more,
        )
        return episode.to_numpy() if self._to_numpy else episode

    def _observations(self, seat: Seat, seen: Sequence[Decision | Seen]) -> list[Any]:
        """As the network saw them, or would have."""
        found: list[Any] = []
        for one in seen:
            answer = one.answer if isinstance(one, Decision) else None
            if answer is not None:
                found.append(answer.extras[Columns.OBS])
            else:
                found.append(seat.encode_one(one.observation, one.action_masks))
        return found

    def _action(self, seat: Seat, decision: Decision) -> Any:
        """As the network gave it, or would have had to."""
        if decision.answer is not None and decision.is_on_policy:
            return decision.answer.extras[Columns.ACTIONS]
        return seat.for_network(decision.action)

    def _columns(self, decision: Decision) -> dict[str, Any]:
        if decision.answer is None:
            return {WEIGHTS_SEQ_NO: 0}
        left_out = (Columns.OBS, Columns.ACTIONS)
        return {
            name: value
            for name, value in decision.answer.extras.items()
            if name not in left_out and (self._on_policy or name in _COMMON)
        }


def _name(chunk: Chunk) -> str:
    """The same for chunks that follow one another."""
    return f"{chunk.episode}-{chunk.piece}" if chunk.piece else chunk.episode


def _clock(chunk: Chunk, found: Together) -> list[Any]:
    """RLlib's mapping from the episode's time steps to the agent's."""
    steps: list[Any] = [MultiAgentEpisode.SKIP_ENV_TS_TAG] * (found.until - found.since + 1)
    for number, time in enumerate([*(lived.time for lived in chunk.lived), chunk.last_time]):
        if time >= found.since:
            steps[time - found.since] = chunk.started + number
    return steps
