"""From where an agent wants to go, and what it wants to say, to actions."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from agent.particle.sight import FloatArray
from farsim.errors import Unsupported

IntArray = NDArray[np.int64]

#: Of Particle's physics: seconds a step, and the share of a velocity that is left after it.
_STEP, _KEPT = 0.1, 0.75
#: The speed, per distance that is left. Higher ones overshoot, lower ones dawdle.
_GAIN = 4.0
#: A discrete move is at full thrust: below this share of it, none is better.
_LEAST = 0.5
#: None, left, right, down, up.
_MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float64)


def approach(
    away: FloatArray, velocity: FloatArray, acceleration: float, then: FloatArray | float = 0.0
) -> FloatArray:
    """The thrust that brings an agent to a point, and to rest there.

    An action changes the velocity of the step after the next: until then the agent drifts.

    Args:
        away: the point, relative to the agent; [R, 2].
        velocity: the agent's, [R, 2].
        acceleration: of the agent at full thrust.
        then: the velocity of what is to be met, [R, 2].

    Returns:
        float64 [R, 2]; beyond 1 it is more than full thrust.
    """
    wanted = _GAIN * (away - _STEP * velocity) + then
    return (wanted - _KEPT * velocity) / (_STEP * acceleration)


def drift(velocity: FloatArray, thrust: FloatArray, acceleration: float) -> FloatArray:
    """The velocity one step later, of an agent that nothing is in the way of."""
    return _KEPT * velocity + _STEP * acceleration * thrust


class Actuator:
    """Actions of one group.

    Args:
        space: of one agent's actions.
        moves: whether its agents move; they talk if the space has room for it.

    Raises:
        Unsupported: no action space of Particle.
    """

    def __init__(self, space: Space[Any], moves: bool) -> None:
        self._moves = moves
        own = len(_MOVES) if moves else 0
        if isinstance(space, Discrete):
            self.symbols = int(space.n) // max(own, 1)
            self._continuous = False
        elif isinstance(space, Box) and len(space.shape) == 1:
            self.symbols = int(space.shape[0]) - own
            self._continuous = True
        else:
            raise Unsupported(f"no controller of Particle acts in {space}")

    def actions(self, thrust: FloatArray, symbol: IntArray) -> NDArray[Any]:
        """A batch of actions.

        Args:
            thrust: [R, 2], cut at full thrust; ignored if the agents do not move.
            symbol: [R], what to say; ignored if they are silent.
        """
        if self._continuous:
            said = symbol[:, None] == np.arange(self.symbols)
            parts = [_opposites(np.clip(thrust, -1, 1))] if self._moves else []
            return np.concatenate([*parts, said], axis=1).astype(np.float32)
        if not self._moves:
            return symbol.astype(np.int64)
        talk = len(_MOVES) * symbol if self.symbols > 1 else 0
        return _one_move(thrust) + talk

    def thrust(self, actions: NDArray[Any]) -> FloatArray:
        """What actions push with, [R, 2]."""
        if not self._moves:
            return np.zeros((len(actions), 2))
        if self._continuous:
            return (actions[:, 2:5:2] - actions[:, 1:5:2]).astype(np.float64)
        pushes: FloatArray = _MOVES[actions % len(_MOVES)]
        return pushes


def _opposites(thrust: FloatArray) -> FloatArray:
    """The five numbers of continuous moves."""
    moves = np.zeros((len(thrust), len(_MOVES)))
    moves[:, 1:5:2] = np.maximum(-thrust, 0)
    moves[:, 2:5:2] = np.maximum(thrust, 0)
    return moves


def _one_move(thrust: FloatArray) -> IntArray:
    """The discrete move along the axis where it is needed most."""
    axis = np.abs(thrust).argmax(axis=1)
    along = thrust[np.arange(len(thrust)), axis]
    return np.where(np.abs(along) < _LEAST, 0, 1 + 2 * axis + (along > 0)).astype(np.int64)
