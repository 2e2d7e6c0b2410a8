"""Who decides for the agents of each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.spaces import Discrete

from agent.batch import BatchedValue
from agent.description import Group
from agent.evaluation.policy import RandomPolicy
from agent.group_step import GroupStep
from agent.particle.controllers import Controller


class GroupPolicy(Protocol):
    """Acts for all agents of one group, in all environments of a batch at a time."""

    def begin(self, num_envs: int) -> None:
        """Forgets the past: new episodes begin in all environments."""

    def act(self, step: GroupStep) -> BatchedValue:
        """A batch of actions with a row for every agent of every environment, [E * A].

        Args:
            step: the group's side of the last reset or step.
        """


@dataclass(frozen=True)
class LineUp:
    """Who plays in an episode.

    Attributes:
        name: for tables and charts.
        policies: one for each group.
    """

    name: str
    policies: Sequence[GroupPolicy]


class RandomGroup:
    """Uniform over the action space; over what is allowed, where one choice has a mask.

    Args:
        group: for whom.
        seed: of the draws.
        number: of the group, so that two of them do not draw the same.
    """

    def __init__(self, group: Group, seed: int, number: int) -> None:
        self._agents = len(group.agents)
        self._words = [seed, number]
        seed = int(np.random.SeedSequence(self._words).generate_state(1)[0])
        self._uniform = RandomPolicy(group.action_space, seed)
        self._random = np.random.default_rng(self._words)
        self._start = None
        if group.has_action_mask and isinstance(group.action_space, Discrete):
            self._start = int(group.action_space.start)

    def begin(self, num_envs: int) -> None:
        self._uniform.begin(num_envs * self._agents)
        self._random = np.random.default_rng(self._words)

    def act(self, step: GroupStep) -> BatchedValue:
        if self._start is None:
            return self._uniform.act(None, {})
        allowed = step.action_masks[0].astype(bool)
        # Nothing is allowed to those that do not act, whose actions are ignored.
        allowed |= ~allowed.any(axis=1, keepdims=True)
        return np.argmax(self._random.random(allowed.shape) * allowed, axis=1) + self._start


class ScriptedGroup:
    """A controller of Particle's."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def begin(self, num_envs: int) -> None:
        self._controller.begin()

    def act(self, step: GroupStep) -> BatchedValue:
        observation: Any = step.observation
        return self._controller.act(observation)
