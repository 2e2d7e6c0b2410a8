"""RLlib's callbacks of episodes, for episodes that simulators begin and end."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium.spaces import Dict
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from agent.live.experience import Finished, Together
from farsim.errors import Unsupported

#: What ``on_episode_end`` is given as, where it is wanted.
_EARLIER = "prev_episode_chunks"


class EpisodeCallbacks:
    """Calls ``on_episode_created``, ``..._start`` and ``..._end`` as RLlib's env runners do.

    They come when the learner asks for a sample, with what it gets of the episode: at the start
    the first observation, at the end the last chunk, which is without steps if none is left that
    the learner can use. An episode begins for them once it has a step for the learner.
    ``custom_data`` is the same in all chunks. As RLlib has it for environments that fail, there is
    no end of an episode whose simulator vanished, or that was aborted.

    Args:
        runner: RLlib's env runner, whose callbacks they are.

    Raises:
        Unsupported: there is a callback for each step.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        own = [type(one).on_episode_end for one in runner._callbacks]
        self._keeps_earlier = any(
            _EARLIER in inspect.signature(function).parameters
            for function in own
            if function is not RLlibCallback.on_episode_end
        ) or bool(runner.config.callbacks_on_episode_end)
        stepped = [type(one).on_episode_step for one in runner._callbacks]
        if runner.config.callbacks_on_episode_step or any(
            function is not RLlibCallback.on_episode_step for function in stepped
        ):
            raise Unsupported(
                "on_episode_step: episodes are put together only when the learner asks for them; "
                "use on_episode_end or on_sample_end",
                "callbacks",
            )
        self._custom: dict[str, dict[Any, Any]] = {}
        self._earlier: dict[str, list[Any]] = {}

    def call(
        self,
        made: Sequence[tuple[Together, Any]],
        finished: Sequence[Finished],
        over: Sequence[str],
    ) -> None:
        """Calls what is due.

        Args:
            made: chunks, and RLlib's episodes of them, in order.
            finished: episodes that simulators have brought to an end.
            over: names of all episodes that are over, in whatever way.
        """
        last: dict[str, Any] = {}
        for found, episode in made:
            name = found.chunks[0].episode
            if name not in self._custom:
                self._begin(name, found, episode)
            episode._custom_data = self._custom[name]
            if self._keeps_earlier and name in last:
                self._earlier.setdefault(name, []).append(last[name])
            last[name] = episode
        for one in finished:
            if one.name in self._custom:
                self._end(one, last.pop(one.name, None))
        for name in over:
            self._custom.pop(name, None)
            self._earlier.pop(name, None)
            last.pop(name, None)
        if self._keeps_earlier:
            for name, episode in last.items():
                self._earlier.setdefault(name, []).append(episode)

    def _begin(self, name: str, found: Together, episode: Any) -> None:
        begun = self._empty(name)
        self._custom[name] = begun.custom_data
        self._call("on_episode_created", begun)
        if isinstance(begun, SingleAgentEpisode):
            begun.add_env_reset(observation=episode.get_observations(0), infos={})
        else:
            first = min(chunk.lived[0].time for chunk in found.chunks)
            seen = {
                chunk.agent: episode.agent_episodes[chunk.agent].get_observations(0)
                for chunk in found.chunks
                if chunk.lived[0].time == first and chunk.agent in episode.agent_episodes
            }
            begun.add_env_reset(observations=seen, infos={agent: {} for agent in seen})
        self._call("on_episode_start", begun)

    def _end(self, one: Finished, episode: Any) -> None:
        earlier = self._earlier.pop(one.name, [])
        if episode is None or not episode.is_done:
            if self._keeps_earlier and episode is not None:
                earlier.append(episode)
            episode = self._empty(one.name)
            episode._custom_data = self._custom[one.name]
            if isinstance(episode, SingleAgentEpisode):
                episode.add_env_reset(observation=self._seen(one)["agent"], infos={})
            else:
                seen = self._seen(one)
                episode.add_env_reset(observations=seen, infos={agent: {} for agent in seen})
            episode.is_terminated = one.terminated
            episode.is_truncated = not one.terminated
        kept = self._runner._ongoing_episodes_for_metrics
        kept[episode.id_] = earlier
        self._call("on_episode_end", episode)
        del kept[episode.id_]

    def _seen(self, one: Finished) -> Mapping[str, Any]:
        """What agents saw last, as networks see it."""
        seats = self._runner._policies.seats
        return {
            "agent" if not self._runner.config.is_multi_agent else agent: seats[
                one.policies[agent]
            ].encode_one(seen.observation, seen.action_masks)
            for agent, seen in one.last.items()
        }

    def _empty(self, name: str) -> Any:
        env = self._runner.env
        if not self._runner.config.is_multi_agent:
            return SingleAgentEpisode(
                id_=name,
                observation_space=env.single_observation_space,
                action_space=env.single_action_space,
            )
        return MultiAgentEpisode(
            id_=name,
            observation_space=Dict(env.single_observation_spaces),
            action_space=Dict(env.single_action_spaces),
            agent_to_module_mapping_fn=self._runner.config.policy_mapping_fn,
        )

    def _call(self, which: str, episode: Any) -> None:
        self._runner._make_on_episode_callback(which, 0, [episode])
