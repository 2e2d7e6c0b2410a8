"""What is in a world: teams of agents, and landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from simserver.simulator import FloatArray, IntArray

#: Red, green and blue, 0 to 255.
Color: TypeAlias = tuple[int, int, int]

#: In ``Worlds.relative`` and its like: all agents but the observer itself.
OTHERS = "others"


@dataclass(frozen=True)
class Team:
    """Agents of one kind: they share their properties, their spaces and so a group.

    Attributes:
        name: of the group, unique over teams and landmarks.
        agents: their names, unique over all teams.
        color: in pictures.
        size: radius.
        moves: whether they act on their movement; if not, they stay where they are.
        speaks: whether they send a message with each action.
        collides: whether they push, and are pushed by, others that collide.
        acceleration: force of a full action, in units of mass 1.
        max_speed: to which their velocity is cut down.
    """

    name: str
    agents: tuple[str, ...]
    color: Color
    size: float = 0.05
    moves: bool = True
    speaks: bool = False
    collides: bool = True
    acceleration: float = 5.0
    max_speed: float = np.inf


@dataclass(frozen=True)
class Landmarks:
    """Things of one kind that do not act.

    Attributes:
        name: unique over teams and landmarks.
        count: how many there are; may be 0.
        color: in pictures.
        size: radius.
        collides: whether they push agents that collide.
        moves: whether they can be pushed themselves.
        max_speed: to which their velocity is cut down.
        ground: whether pictures show them as an area that agents can be in.
    """

    name: str
    count: int
    color: Color
    size: float = 0.05
    collides: bool = False
    moves: bool = False
    max_speed: float = np.inf
    ground: bool = False


class Bodies:
    """All agents and landmarks of a world, in order: the E bodies, the first A of them agents.

    Args:
        teams: in the order of the groups.
        landmarks: in order.
        vocabulary: numbers in a message; C.

    Attributes:
        parts: by name of team or landmarks, which of the bodies they are.
        num_agents: A.
        count: E.
        names: of the bodies.
        size: float64 [E].
        max_speed: float64 [E], infinite for none.
        moves: bool [E].
        collides: bool [E].

    Raises:
        ValueError: names are not unique, or a team is empty.
    """

    def __init__(
        self, teams: Sequence[Team], landmarks: Sequence[Landmarks], vocabulary: int
    ) -> None:
        self.teams, self.landmarks = tuple(teams), tuple(landmarks)
        self.vocabulary = vocabulary
        counts: list[tuple[Team | Landmarks, int]] = [(team, len(team.agents)) for team in teams]
        counts += [(kind, kind.count) for kind in landmarks]
        self.parts: dict[str, slice] = {}
        self.names: list[str] = []
        for kind, count in counts:
            if kind.name in self.parts or kind.name == OTHERS:
                raise ValueError(f"two kinds of bodies are called '{kind.name}'")
            start = len(self.names)
            self.parts[kind.name] = slice(start, start + count)
            if isinstance(kind, Team):
                self.names += kind.agents
            else:
                self.names += [f"{kind.name} {number}" for number in range(count)]
        self.count = len(self.names)
        self.num_agents = sum(len(team.agents) for team in teams)
        if not teams or not all(team.agents for team in teams):
            raise ValueError("a world needs a team, and every team an agent")
        if len(set(self.names)) < self.count:
            raise ValueError(f"names of agents must be unique, not {self.names}")
        self.size = np.array([kind.size for kind, n in counts for _ in range(n)], np.float64)
        self.max_speed = np.array([kind.max_speed for kind, n in counts for _ in range(n)])
        self.moves = np.array([kind.moves for kind, n in counts for _ in range(n)], np.bool_)
        self.collides = np.array([kind.collides for kind, n in counts for _ in range(n)], np.bool_)
        self._others: dict[tuple[str, tuple[str, ...]], IntArray] = {}
        self._reach: dict[tuple[str, str], FloatArray] = {}

    def seen_by(self, team: str, parts: tuple[str, ...]) -> IntArray:
        """Bodies of ``parts`` for each agent of a team, itself left out: int64 [agents, bodies].

        Raises:
            KeyError: no part is called so.
        """
        known = self._others.get((team, parts))
        if known is None:
            rows = []
            for agent in self.indices(team).tolist():
                bodies = [
                    body for part in parts for body in self.indices(part).tolist() if body != agent
                ]
                rows.append(bodies)
            known = self._others[team, parts] = np.array(rows, np.int64)
        return known

    def reach(self, one: str, other: str) -> FloatArray:
        """The distances at which bodies of two parts touch: float64 [ones, others, 1]."""
        known = self._reach.get((one, other))
        if known is None:
            sizes = self.size[self.parts[one], None] + self.size[None, self.parts[other]]
            known = self._reach[one, other] = sizes[:, :, None]
        return known

    def indices(self, part: str) -> IntArray:
        """Which bodies a team, landmarks, or all agents (``OTHERS``) are: int64."""
        if part == OTHERS:
            return np.arange(self.num_agents)
        return np.arange(self.count)[self.parts[part]]
