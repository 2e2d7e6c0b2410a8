"""Scripted controllers for Particle's scenarios, on batches of observations."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.description import Group
from agent.particle.sight import MESSAGE, FloatArray, Sight, scenario_of, sights
from agent.particle.steering import Actuator, IntArray, approach, drift

#: Of an agent at full thrust, by scenario and group; 5 where nothing is said.
_ACCELERATION = {
    ("simple_tag", "adversaries"): 3.0,
    ("simple_tag", "agents"): 4.0,
    ("simple_world_comm", "leader"): 3.0,
    ("simple_world_comm", "adversaries"): 3.0,
    ("simple_world_comm", "agents"): 4.0,
}
#: Beyond this distance from an axis prey turns back, before it costs something at 0.9.
_EDGE = 0.7
#: Prey that eats runs from hunters nearer than this.
_DANGER = 0.5
#: How far ahead, in seconds, hunters aim.
_AHEAD = 0.2


class Controller(abc.ABC):
    """Decides for one group of agents, from what they observe.

    Args:
        sight: what they see.
        acceleration: theirs.
        moves: whether they do.
    """

    def __init__(self, sight: Sight, acceleration: float, moves: bool = True) -> None:
        self.sight = sight
        self.acceleration = acceleration
        self.actuator = Actuator(sight.group.action_space, moves)
        #: The velocity that an agent should have, if nothing was in its way.
        self._reckoned: FloatArray | None = None

    def begin(self) -> None:
        """New episodes begin in all environments."""
        self._reckoned = None

    def act(self, observation: NDArray[Any]) -> NDArray[Any]:
        """A batch of actions, for observations float32 [E * A, numbers]."""
        velocity = self._velocity(observation)
        actions = self.actuator.actions(self.thrust(observation), self.symbol(observation))
        self._reckoned = drift(velocity, self.actuator.thrust(actions), self.acceleration)
        return actions

    @abc.abstractmethod
    def thrust(self, observation: NDArray[Any]) -> FloatArray:
        """Where to push: [R, 2]."""

    def symbol(self, observation: NDArray[Any]) -> IntArray:
        """What to say: [R]."""
        return np.zeros(len(observation), np.int64)

    def go_to(self, observation: NDArray[Any], away: FloatArray) -> FloatArray:
        """The thrust to a point relative to the agent, [R, 2]."""
        return approach(away, self._velocity(observation), self.acceleration)

    def _velocity(self, observation: NDArray[Any]) -> FloatArray:
        """As it is seen; of agents that do not see it, as it must be."""
        if "velocity" in self.sight.columns:
            return self.sight.point(observation, "velocity")
        if self._reckoned is None:
            return np.zeros((len(observation), 2))
        return self._reckoned


class GoToGoal(Controller):
    """Goes to the one place that it is to go to."""

    def thrust(self, observation: NDArray[Any]) -> FloatArray:
        known = "goal" if "goal" in self.sight.columns else "landmarks"
        return self.go_to(observation, self.sight.point(observation, known))


class GoToLandmarks(Controller):
    """Each agent picks a landmark in the first step and goes there.

    Args:
        sight: what they see.
        acceleration: theirs.
        together: whether they pick different ones, those with the smallest sum of distances, as
            an omniscient coach would have it; otherwise each takes its nearest.
    """

    def __init__(self, sight: Sight, acceleration: float, together: bool) -> None:
        super().__init__(sight, acceleration)
        self._together = together
        self._picked: IntArray | None = None

    def begin(self) -> None:
        super().begin()
        self._picked = None

    def thrust(self, observation: NDArray[Any]) -> FloatArray:
        landmarks = self.sight.points(observation, "landmarks")
        if self._picked is None:
            self._picked = self._pick(np.linalg.norm(landmarks, axis=2))
        return self.go_to(observation, landmarks[np.arange(len(landmarks)), self._picked])

    def _pick(self, distances: FloatArray) -> IntArray:
        if not self._together:
            return distances.argmin(axis=1)
        # RLlib needs SciPy, so that it is there.
        from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

        agents = len(self.sight.group.agents)
        worlds = distances.reshape(-1, agents, distances.shape[1])
        return np.concatenate([linear_sum_assignment(world)[1] for world in worlds])


class HedgeBetweenLandmarks(Controller):
    """Waits in the middle of the landmarks, any of which may be the goal."""

    def thrust(self, observation: NDArray[Any]) -> FloatArray:
        return self.go_to(observation, self.sight.points(observation, "landmarks").mean(axis=1))


class Guard(Controller):
    """Goes to the landmark that the other agent is nearest to, to be in its way."""

    def thrust(self, observation: NDArray[Any]) -> FloatArray:
        landmarks = self.sight.points(observation, "landmarks")
        other = self.sight.points(observation, "others")
        nearest = np.linalg.norm(landmarks - other, axis=2).argmin(axis=1)
        return self.go_to(observation, landmarks[np.arange(len(landmarks)), nearest])


class Tell(Controller):
    """Says which of the three landmarks is the goal that it knows, by number."""

    def thrust(self, observation: NDArray[Any]) -> FloatArray:
        return np.zeros((len(observation), 2))

    def symbol(self, observation: NDArray[Any]) -> IntArray:
        return self.sight.numbers(observation, "known").argmax(axis=1)


class Obey(Controller):
    """Goes to the landmark whose number it hears; until then between them."""

    def thrust(self, observation: NDArray[Any]) -> FloatArray:
        landmarks = self.sight.points(observation, "landmarks")
        heard = self.sight.numbers(observation, MESSAGE)
        number = np.minimum(heard.argmax(axis=1), landmarks.shape[1] - 1)
        told = landmarks[np.arange(len(landmarks)), number]
        spoken = heard.any(axis=1, keepdims=True)
        away = np.where(spoken, told, landmarks.mean(axis=1))
        return self.go_to(observation, away)


class TellAndObey(Obey):
    """Both at once."""

    def symbol(self, observation: NDArray[Any]) -> IntArray:
        return self.sight.numbers(observation, "known").argmax(axis=1)


class Cipher(Controller):
    """Alice adds the key to the secret, Bob subtracts it; Eve repeats what she hears."""

    def thrust(self, observation: NDArray[Any]) -> FloatArray:
        return np.zeros((len(observation), 2))

    def symbol(self, observation: NDArray[Any]) -> IntArray:
        key = self._number(observation, "key")
        if "goal" in self.sight.columns:
            return (self._number(observation, "goal") + key) % 2
        return (self._number(observation, MESSAGE) - key) % 2

    def _number(self, observation: NDArray[Any], name: str) -> IntArray:
        if name not in self.sight.columns:
            return np.zeros(len(observation), np.int64)
        return self.sight.numbers(observation, name).argmax(axis=1)


class Hunt(Controller):
    """Goes for the nearest prey that it sees, ahead of where that is; else to the middle.

    Args:
        sight: what the hunters see.
        acceleration: theirs.
        prey: how many there are; the last ones of the others.
    """

    def __init__(self, sight: Sight, acceleration: float, prey: int) -> None:
        super().__init__(sight, acceleration)
        self._prey = prey

    def thrust(self, observation: NDArray[Any]) -> FloatArray:
        prey = self.sight.points(observation, "others")[:, -self._prey :]
        velocities = self.sight.points(observation, "velocities")
        nearest, distance = _nearest(prey)
        rows = np.arange(len(prey))
        speed = velocities[rows, nearest]
        seen = np.isfinite(distance)[:, None]
        middle = -self.sight.point(observation, "position")
        away = np.where(seen, prey[rows, nearest] + _AHEAD * speed, middle)
        own = self._velocity(observation)
        return approach(away, own, self.acceleration, np.where(seen, speed, 0.0))


class Flee(Controller):
    """Runs from hunters, the more the nearer they are, and stays off the edges.

    Where there is food, it goes there while no hunter is near.

    Args:
        sight: what the prey sees.
        acceleration: its own.
        hunters: how many there are; the first ones of the others.
    """

    def __init__(self, sight: Sight, acceleration: float, hunters: int) -> None:
        super().__init__(sight, acceleration)
        self._hunters = hunters

    def thrust(self, observation: NDArray[Any]) -> FloatArray:
        hunters = self.sight.points(observation, "others")[:, : self._hunters]
        squared = np.square(hunters).sum(axis=2, keepdims=True)
        away = -np.where(squared > 0, hunters / np.maximum(squared, 1e-3), 0).sum(axis=1)
        length = np.linalg.norm(away, axis=1, keepdims=True)
        thrust = away / np.maximum(length, 1e-6)
        if "food" in self.sight.columns:
            food = self.sight.points(observation, "food")
            nearest, _ = _nearest(food)
            eat = self.go_to(observation, food[np.arange(len(food)), nearest])
            _, distance = _nearest(hunters)
            thrust = np.where((distance < _DANGER)[:, None], thrust, eat)
        position = self.sight.point(observation, "position")
        beyond = np.abs(position) > _EDGE
        return np.where(beyond, -3 * np.sign(position), thrust)


def _nearest(points: FloatArray) -> tuple[IntArray, FloatArray]:
    """Of points [R, n, 2] that are to be seen: which [R], and how far [R]; inf if there is none.

    Those that are not to be seen are at 0, 0.
    """
    distances = np.linalg.norm(points, axis=2)
    distances[distances == 0] = np.inf
    nearest = distances.argmin(axis=1)
    return nearest, distances[np.arange(len(distances)), nearest]


def scripted(
    simulator: str, session_options: Mapping[str, Any], groups: Sequence[Group]
) -> dict[str, tuple[Controller, ...]]:
    """The controllers that there are for a simulator: by name, one for each group.

    Empty if there are none.

    Args:
        simulator: its name on the server.
        session_options: the value of every parameter.
        groups: its groups.
    """
    scenario = scenario_of(simulator)
    if not scenario:
        return {}
    seen = sights(simulator, session_options, groups)
    if scenario == "simple_spread":
        (sight,) = seen
        return {
            "best assignment": (GoToLandmarks(sight, 5.0, together=True),),
            "nearest landmark": (GoToLandmarks(sight, 5.0, together=False),),
        }
    good = sum(len(group.agents) for group in groups if group.name == "agents")
    bad = sum(len(group.agents) for group in groups) - good
    return {"scripted": tuple(_scripted(scenario, sight, good, bad) for sight in seen)}


def _scripted(scenario: str, sight: Sight, good: int, bad: int) -> Controller:
    name = sight.group.name
    acceleration = _ACCELERATION.get((scenario, name), 5.0)
    if scenario in ("simple_tag", "simple_world_comm"):
        if name == "agents":
            return Flee(sight, acceleration, bad)
        return Hunt(sight, acceleration, good)
    if scenario == "simple_adversary":
        if name == "agents":
            return GoToLandmarks(sight, acceleration, together=True)
        return HedgeBetweenLandmarks(sight, acceleration)
    if scenario == "simple_crypto":
        return Cipher(sight, acceleration, moves=False)
    if scenario == "simple_push" and name == "adversaries":
        return Guard(sight, acceleration)
    if scenario == "simple_reference":
        return TellAndObey(sight, acceleration)
    if scenario == "simple_speaker_listener":
        if name == "speaker":
            return Tell(sight, acceleration, moves=False)
        return Obey(sight, acceleration)
    return GoToGoal(sight, acceleration)
