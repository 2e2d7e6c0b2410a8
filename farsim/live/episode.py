"""What callers say of an episode, in the terms of one agent or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from farsim.errors import FarsimError, InvalidArgument
from farsim.live.play import Named, Play, Rules, by_agent, checked_reward
from farsim.live.steps import Steps

#: In ``terminateds`` and ``truncateds``: every agent, and with them the episode.
ALL = "__all__"


class BaseEpisode:
    """What ``Episode`` and ``AsyncEpisode`` share."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._play = Play(rules)

    @property
    def fallbacks(self) -> int:
        """How many actions so far were the fallback's."""
        return self._play.fallbacks

    @property
    def lost(self) -> FarsimError | None:
        """Why the server does not know all of this episode, or no longer; None as long as it does.

        With "collect" and "shadow" the rest is then the fallback's, and nothing is learned from it.
        """
        return self._play.lost

    @property
    def policy_version(self) -> int:
        """The version of the policy that chose the last action; 0 before there is one."""
        return self._play.policy_version

    @property
    def is_over(self) -> bool:
        return self._play.is_over

    def reward(self, reward: Any) -> None:
        """Adds to what has been earned since the server was last told.

        Nothing is sent: the sum goes with the next observation, or with the end.

        Args:
            reward: a number; with several agents a mapping by agent.
        """
        for agent, value in self._rewards(reward).items():
            self._play.earn(agent, value)

    def _rewards(self, rewards: Any) -> dict[str, float]:
        if self._rules.interface.is_multi_agent:
            given = by_agent(rewards, "rewards").items()
        else:
            given = {self._rules.interface.single_agent: rewards}.items()
        return {agent: checked_reward(value, agent) for agent, value in given}

    def _observe(
        self,
        observation: Any,
        reward: Any,
        action_mask: Any,
        action_taken: Any,
        rewards: Mapping[str, float] | None,
        terminateds: Mapping[str, bool] | None,
        truncateds: Mapping[str, bool] | None,
    ) -> Steps:
        if not self._rules.interface.is_multi_agent:
            self._refuse_agents(rewards, terminateds, truncateds)
            named = self._single(observation, reward, action_mask, action_taken)
            actions = yield from self._play.observe([named])
            return actions[named.agent]
        several = self._several(
            observation, reward, action_mask, action_taken, rewards, terminateds, truncateds
        )
        is_terminated = bool((terminateds or {}).get(ALL))
        if is_terminated or (truncateds or {}).get(ALL):
            _end_others(several, is_terminated)
            yield from self._play.end(several)
            return {}
        return (yield from self._play.observe(several))

    def _log(
        self,
        observation: Any,
        action: Any,
        reward: Any,
        action_mask: Any,
        rewards: Mapping[str, float] | None,
        terminateds: Mapping[str, bool] | None,
        truncateds: Mapping[str, bool] | None,
    ) -> Steps:
        if not self._rules.interface.is_multi_agent:
            self._refuse_agents(rewards, terminateds, truncateds)
            several = [self._single(observation, reward, action_mask, None)]
            actions: Mapping[str, Any] = {several[0].agent: action}
        else:
            several = self._several(
                observation, reward, action_mask, None, rewards, terminateds, truncateds
            )
            actions = by_agent(action, "action")
        acting = [one for one in several if one.acts]
        missing = [one.agent for one in acting if one.agent not in actions]
        if missing:
            raise InvalidArgument(f"no action is logged for {missing}", "action")
        for one in acting:
            one.logged, one.is_logged = actions[one.agent], True
        yield from self._play.observe(several)

    def _end(
        self,
        observation: Any,
        reward: Any,
        terminated: bool,
        truncated: bool,
        action_taken: Any,
        rewards: Mapping[str, float] | None,
        terminateds: Mapping[str, bool] | None,
        truncateds: Mapping[str, bool] | None,
    ) -> Steps:
        if not self._rules.interface.is_multi_agent:
            self._refuse_agents(rewards, terminateds, truncateds)
            if observation is None:
                if terminated:
                    raise InvalidArgument("a terminated episode has a last observation", "end")
                self.reward(reward)
                return self._play.end([])
            if not (terminated or truncated):
                raise InvalidArgument(
                    "say how the episode ends: terminated=True (the world reached an end) or "
                    "truncated=True (it was stopped from outside)",
                    "end",
                )
            named = self._single(observation, reward, None, action_taken)
            named.terminated, named.truncated = terminated, truncated
            return self._play.end([named])
        several = self._several(
            observation, reward, None, action_taken, rewards, terminateds, truncateds
        )
        _end_others(several, terminated or bool((terminateds or {}).get(ALL)))
        return self._play.end(several)

    def _single(self, observation: Any, reward: Any, mask: Any, taken: Any) -> Named:
        agent = self._rules.interface.single_agent
        role = self._rules.interface.role(agent)
        return Named(
            agent,
            role.encode_observation(observation, agent),
            observation,
            checked_reward(reward, agent),
            () if mask is None else role.masks(mask, agent),
            taken=taken,
            is_taken=taken is not None,
        )

    def _several(
        self,
        observations: Any,
        reward: Any,
        masks: Any,
        taken: Any,
        rewards: Mapping[str, float] | None,
        terminateds: Mapping[str, bool] | None,
        truncateds: Mapping[str, bool] | None,
    ) -> list[Named]:
        """One for each agent with an observation, an end or an action; rewards of others wait."""
        if rewards is None and isinstance(reward, Mapping):
            rewards = reward
        elif reward:
            raise InvalidArgument(
                "there are several agents here: give rewards by agent, as 'rewards'", "reward"
            )
        seen = by_agent(observations, "observation")
        earned = self._rewards(rewards)
        allowed = by_agent(masks, "action_mask")
        done = by_agent(taken, "action_taken")
        ended = {
            name: bool(flag)
            for name, flag in by_agent(terminateds, "terminateds").items()
            if name != ALL
        }
        stopped = {
            name: bool(flag)
            for name, flag in by_agent(truncateds, "truncateds").items()
            if name != ALL
        }
        names = dict.fromkeys(seen)
        names.update(dict.fromkeys(name for name, flag in {**ended, **stopped}.items() if flag))
        names.update(dict.fromkeys(done))
        named = []
        for agent in names:
            role = self._rules.interface.role(agent)
            is_seen = seen.get(agent) is not None
            named.append(
                Named(
                    agent,
                    role.encode_observation(seen[agent], agent) if is_seen else None,
                    seen.get(agent),
                    earned.pop(agent, 0.0),
                    role.masks(allowed[agent], agent) if allowed.get(agent) is not None else (),
                    ended.get(agent, False),
                    stopped.get(agent, False),
                    taken=done.get(agent),
                    is_taken=agent in done,
                )
            )
        for agent, value in earned.items():
            self._play.earn(agent, value)
        return named

    def _refuse_agents(self, *given: Mapping[str, Any] | None) -> None:
        if any(one is not None for one in given):
            raise InvalidArgument(
                "there is one agent here: give its own reward and end, or declare several agents "
                "with 'groups'",
                "groups",
            )


def _end_others(several: Sequence[Named], is_terminated: bool) -> None:
    """With the episode ends the part of those that have been seen and not ended."""
    for one in several:
        if one.observation is not None and not one.has_ended:
            one.terminated, one.truncated = is_terminated, not is_terminated
