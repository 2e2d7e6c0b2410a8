"""What a scenario is made of: bodies, what agents see, and what they are rewarded for."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box, Discrete, Text
from numpy.typing import NDArray

from simserver.sims.particle.bodies import Bodies, Color, Landmarks, Team
from simserver.sims.particle.worlds import Worlds
from simserver.simulator import BoolArray, FloatArray, Parameter


@dataclass
class Outcome:
    """What a step led to, in W worlds; n is the number of a team's agents.

    Attributes:
        rewards: for each team, by name, float64 that broadcasts to [n, W].
        infos: for each team that has any, by name of team and info, arrays that broadcast to
            [n, W].
        success: bool [W], where the episode terminates; None for nowhere.
    """

    rewards: Mapping[str, FloatArray]
    infos: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    success: BoolArray | None = None


class Scenario(abc.ABC):
    """A kind of world. A subclass says what it is made of, for all its worlds at once.

    ``__init__`` takes the ``parameters`` as keyword arguments and sets the attributes below, or
    raises ValueError if they do not go together; the methods say the rest. Arrays have the worlds
    last: see ``Worlds``.

    Attributes:
        teams: the agents; each team becomes a group.
        landmarks: the other bodies.
        vocabulary: numbers in a message.
        choices: integers that an episode draws before the positions: by name, how many there are
            to choose from.
    """

    #: One line for people.
    description: ClassVar[str] = ""
    #: Besides ``max_cycles`` and ``action_mode``, which every scenario has.
    parameters: ClassVar[tuple[Parameter, ...]] = ()

    teams: tuple[Team, ...]
    landmarks: tuple[Landmarks, ...] = ()
    vocabulary: int = 0
    choices: Mapping[str, int] = {}

    @abc.abstractmethod
    def observe(self, worlds: Worlds) -> Mapping[str, Sequence[NDArray[Any]]]:
        """What each team's agents see: by team the parts, each [n, numbers, W], put together."""

    @abc.abstractmethod
    def judge(self, worlds: Worlds) -> Outcome:
        """Rewards, infos and success after a step."""

    @property
    def num_draws(self) -> int:
        """How many uniform numbers ``place`` needs for an episode."""
        return 2 * self.bodies.count

    def place(self, uniform: FloatArray) -> FloatArray:
        """Where the bodies are at first: anywhere between -1 and 1.

        Args:
            uniform: float64 [num_draws, W], in [0, 1).

        Returns:
            float64 [E, 2, W]
        """
        return -1 + 2 * uniform.reshape(self.bodies.count, 2, -1)

    def colors(self, worlds: Worlds) -> list[Color]:
        """Of all bodies in pictures of one world, W = 1: those of the teams and landmarks."""
        colors = [team.color for team in self.teams for _ in team.agents]
        return colors + [kind.color for kind in self.landmarks for _ in range(kind.count)]

    @cached_property
    def bodies(self) -> Bodies:
        """Of every world."""
        return Bodies(self.teams, self.landmarks, self.vocabulary)


def numbered(name: str, count: int) -> tuple[str, ...]:
    """``("name_0", "name_1", ...)``."""
    return tuple(f"{name}_{number}" for number in range(count))


def count_of(name: str, default: int, what: str, *, low: int = 1, high: int = 64) -> Parameter:
    """A parameter that is a number of things."""
    return Parameter(name, Discrete(high - low + 1, start=low), default, what)


LOCAL_RATIO = Parameter(
    "local_ratio",
    Box(0.0, 1.0, (), np.float64),
    np.array(0.5),
    "weight of an agent's own reward; the reward of all has the rest",
)
TERMINATE_ON_SUCCESS = Parameter(
    "terminate_on_success", Discrete(2), 0, "1: the episode terminates when the task is done"
)
REWARDS = Parameter(
    "rewards",
    Text(16, charset="abcdefghijklmnopqrstuvwxyz0123456789"),
    "mpe2",
    "those of the mpe2 package, or of OpenAI's original",
    choices=("mpe2", "original"),
)
