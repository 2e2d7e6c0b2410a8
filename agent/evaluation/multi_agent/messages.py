"""Whether agents understand each other: what changes when they hear others' messages instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.batch import BatchedValue
from agent.description import Group
from agent.evaluation.multi_agent.policy import GroupPolicy, LineUp
from agent.evaluation.multi_agent.rollout import GroupEpisodes, TeamEpisodes
from agent.evaluation.multi_agent.summary import columns, over_agents
from agent.evaluation.summary import Estimate
from agent.group_step import GroupStep
from agent.particle.sight import MESSAGE, sights
from farsim.errors import InvalidArgument, Unsupported

#: How near its goal an agent must be in the end, unless people say otherwise: two landmarks are
#: nearer to each other in one of 34 episodes.
SUCCESS_DISTANCE = 0.2

#: Infos that say how an agent did.
_DISTANCE, _CORRECT = "goal_distance", "correct"


class Misheard:
    """A group that hears in each environment what is said in another one.

    Who hears whom is drawn once an episode: what is heard is a whole episode's talk, and as likely
    as what should have been heard. No environment keeps its own.

    Args:
        policy: decides, on what it hears.
        group: for whom.
        messages: the columns of the observation.
        seed: of the draw.
    """

    def __init__(self, policy: GroupPolicy, group: Group, messages: slice, seed: int) -> None:
        self._policy = policy
        self._agents = len(group.agents)
        self._messages = messages
        self._seed = seed
        self._source: NDArray[np.int64] = np.zeros(0, np.int64)

    def begin(self, num_envs: int) -> None:
        if num_envs < 2:
            raise InvalidArgument(
                "messages are shuffled between episodes: it takes two at least", "episodes"
            )
        # One cycle through all of them, so that none is its own source.
        order = np.random.default_rng(self._seed).permutation(num_envs)
        self._source = np.empty(num_envs, np.int64)
        self._source[order] = np.roll(order, 1)
        self._policy.begin(num_envs)

    def act(self, step: GroupStep) -> BatchedValue:
        return self._policy.act(replace(step, observation=self.shuffled(step.observation)))

    def shuffled(self, observation: Any) -> NDArray[Any]:
        """Observations [E * A, numbers] with others' messages."""
        worlds = np.array(observation).reshape(len(self._source), self._agents, -1)
        worlds[..., self._messages] = worlds[self._source][..., self._messages]
        return worlds.reshape(np.shape(observation))


def with_shuffled_messages(
    line_up: LineUp,
    simulator: str,
    session_options: Mapping[str, Any],
    groups: Sequence[Group],
    seed: int,
) -> LineUp:
    """The same line-up, hard of hearing.

    Raises:
        Unsupported: nobody hears anything there, as far as this knows.
    """
    seen = sights(simulator, session_options, groups)
    if not any(MESSAGE in sight.columns for sight in seen):
        raise Unsupported(f"nobody hears messages in '{simulator}'", simulator)
    policies = [
        Misheard(policy, sight.group, sight.columns[MESSAGE], seed)
        if MESSAGE in sight.columns
        else policy
        for policy, sight in zip(line_up.policies, seen, strict=True)
    ]
    return LineUp(f"{line_up.name}, messages shuffled", policies)


@dataclass(frozen=True)
class Understanding:
    """How well one group of a line-up did.

    Attributes:
        line_up: its name.
        shuffled: whether it heard others' messages.
        group: its name.
        success: the share of agents that ended near their goal, or were right.
        distance: from the goal at the end.
        each: the return of an agent.
    """

    line_up: str
    shuffled: bool
    group: str
    success: Estimate
    distance: Estimate
    each: Estimate

    def row(self) -> dict[str, Any]:
        """For CSV."""
        return {
            "policy": self.line_up,
            "messages": "shuffled" if self.shuffled else "intact",
            "group": self.group,
            **columns("success", self.success),
            **columns("goal_distance_last", self.distance),
            **columns("return_each", self.each),
        }


def understanding(
    line_up: str, shuffled: bool, episodes: TeamEpisodes, success_distance: float
) -> list[Understanding]:
    """How the groups did that have something to reach; all of them if none has.

    Args:
        line_up: its name.
        shuffled: whether it heard others' messages.
        episodes: that it played.
        success_distance: how near its goal an agent must be in the end.
    """
    found = []
    groups = episodes.good.groups
    measured = [name for name, group in groups.items() if {_DISTANCE, _CORRECT} & {*group.infos}]
    for name in measured or groups:
        success, distance = _success(groups[name], success_distance)
        each = Estimate.of(groups[name].returns.mean(axis=1))
        found.append(Understanding(line_up, shuffled, name, success, distance, each))
    return found


def _success(group: GroupEpisodes, success_distance: float) -> tuple[Estimate, Estimate]:
    if _DISTANCE in group.infos:
        last = group.infos[_DISTANCE].last
        near = np.where(np.isnan(last), np.nan, last < success_distance)
        return Estimate.of(over_agents(near)), Estimate.of(over_agents(last))
    if _CORRECT in group.infos:
        return Estimate.of(over_agents(group.infos[_CORRECT].last)), Estimate()
    return Estimate(), Estimate()
