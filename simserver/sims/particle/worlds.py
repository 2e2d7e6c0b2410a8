"""The state of many worlds at once, and how scenarios look at it.

The last dimension of every array here is the worlds, so that code reads as if for a single one,
and runs along contiguous memory. W is the number of worlds, E of bodies, A of agents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserver.sims.particle.bodies import Bodies
from simserver.simulator import BoolArray, FloatArray, IntArray


class Worlds:
    """W worlds with the same bodies.

    A part is a team or landmarks, by name; n and m stand for the number of its bodies. What the
    methods return is not to be written to.

    Attributes:
        positions: float64 [E, 2, W].
        velocities: float64 [E, 2, W], per second; 0 for what does not move.
        messages: float64 [A, C, W], sent in the last step; 0 from silent agents.
        choices: int64 [names, W], what the episode has drawn besides positions.
        steps: int64 [W], since the episode began.
    """

    def __init__(
        self, bodies: Bodies, choice_names: tuple[str, ...], arrays: dict[str, NDArray[Any]]
    ) -> None:
        self.bodies = bodies
        self.arrays = arrays
        self.positions: FloatArray = arrays["positions"]
        self.velocities: FloatArray = arrays["velocities"]
        self.messages: FloatArray = arrays["messages"]
        self.choices: IntArray = arrays["choices"]
        self.steps: IntArray = arrays["steps"]
        self._choice_names = choice_names

    @classmethod
    def empty(cls, bodies: Bodies, choice_names: tuple[str, ...], count: int) -> Worlds:
        """Worlds where everything is 0."""
        arrays: dict[str, NDArray[Any]] = {
            "positions": np.zeros((bodies.count, 2, count)),
            "velocities": np.zeros((bodies.count, 2, count)),
            "messages": np.zeros((bodies.num_agents, bodies.vocabulary, count)),
            "choices": np.zeros((len(choice_names), count), np.int64),
            "steps": np.zeros(count, np.int64),
        }
        return cls(bodies, choice_names, arrays)

    @property
    def count(self) -> int:
        """W."""
        return len(self.steps)

    def select(self, envs: IntArray) -> Worlds:
        """Some of the worlds, copied; the worlds themselves if ``envs`` are all of them."""
        if len(envs) == self.count:
            return self
        arrays = {name: array.take(envs, axis=-1) for name, array in self.arrays.items()}
        return Worlds(self.bodies, self._choice_names, arrays)

    def select_one(self, env: int) -> Worlds:
        """One of the worlds, copied."""
        arrays = {name: array[..., env : env + 1].copy() for name, array in self.arrays.items()}
        return Worlds(self.bodies, self._choice_names, arrays)

    def store(self, envs: IntArray, worlds: Worlds) -> None:
        """Puts back what ``select`` gave."""
        if worlds is not self:
            for name, array in worlds.arrays.items():
                self.arrays[name][..., envs] = array

    # -- one part ---------------------------------------------------------------------------

    def position(self, part: str) -> FloatArray:
        """float64 [n, 2, W]."""
        return self.positions[self.bodies.parts[part]]

    def velocity(self, part: str) -> FloatArray:
        """float64 [n, 2, W]."""
        return self.velocities[self.bodies.parts[part]]

    def message(self, team: str) -> FloatArray:
        """float64 [n, C, W], as sent by each of the team in the step just made."""
        return self.messages[self.bodies.parts[team]]

    def choice(self, name: str) -> IntArray:
        """int64 [W], one of ``Scenario.choices``."""
        return self.choices[self._choice_names.index(name)]

    def chosen(self, part: str, index: IntArray) -> FloatArray:
        """Where a body of a part is that differs between the worlds: float64 [2, W]."""
        return np.ascontiguousarray(self.position(part)[index, :, np.arange(self.count)].T)

    # -- one part and another ---------------------------------------------------------------

    def distance(self, one: str, other: str) -> FloatArray:
        """Between the centres of two parts' bodies: float64 [n, m, W]."""
        return length(self.position(one)[:, None] - self.position(other)[None])

    def touching(self, one: str, other: str) -> BoolArray:
        """Whether two parts' bodies overlap: bool [n, m, W]. A body overlaps with itself."""
        touching: BoolArray = self.distance(one, other) < self.bodies.reach(one, other)
        return touching

    # -- what agents see: [n, numbers, W] ---------------------------------------------------

    def relative(self, team: str, *parts: str) -> FloatArray:
        """Positions of the bodies of ``parts`` as seen from each agent: float64 [n, 2 m, W].

        An agent does not see itself; ``OTHERS`` are all other agents.
        """
        seen = self.positions[self.bodies.seen_by(team, parts)]
        seen -= self.position(team)[:, None]
        return _flat(seen)

    def velocities_seen(self, team: str, *parts: str) -> FloatArray:
        """Velocities of the bodies of ``parts``, the agent's own left out: float64 [n, 2 m, W]."""
        seen = self.velocities[self.bodies.seen_by(team, parts)]
        return _flat(seen)

    def heard(self, team: str, *teams: str) -> FloatArray:
        """Messages of the agents of ``teams``, the agent's own left out: float64 [n, C m, W]."""
        heard = self.messages[self.bodies.seen_by(team, teams)]
        return _flat(heard)


def _flat(seen: FloatArray) -> FloatArray:
    """[n, m, k, W] as [n, m k, W]."""
    agents, bodies, numbers, worlds = seen.shape
    return seen.reshape(agents, bodies * numbers, worlds)


def length(vectors: FloatArray) -> FloatArray:
    """Euclidean lengths: float64 [..., W] of [..., 2, W]."""
    lengths: FloatArray = np.sqrt(squared_length(vectors))
    return lengths


def squared_length(vectors: FloatArray) -> FloatArray:
    """Squared Euclidean lengths: float64 [..., W] of [..., 2, W]."""
    x, y = vectors[..., 0, :], vectors[..., 1, :]
    squares: FloatArray = x * x
    squares += y * y
    return squares
