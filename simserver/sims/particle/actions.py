"""From actions to forces and messages (SPEC section 2, "Actions")."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from simserver.sims.particle.bodies import Team
from simserver.simulator import FloatArray

#: Directions of the discrete moves: none, left, right, down, up.
_X = np.array([0.0, -1.0, 1.0, 0.0, 0.0])
_Y = np.array([0.0, 0.0, 0.0, -1.0, 1.0])
MOVES = len(_X)


class Controls:
    """How one team's actions are read.

    Args:
        team: whose.
        vocabulary: numbers in a message.
        continuous: whether actions are ``Box(0, 1)`` instead of ``Discrete``.

    Attributes:
        space: of one agent. ``Discrete``: move + 5 * symbol. ``Box``: five numbers for the moves
            (the first does nothing, opposite ones are subtracted), then the message. Agents that
            do not move, or are silent, have only the other half.
    """

    def __init__(self, team: Team, vocabulary: int, continuous: bool) -> None:
        if not team.moves and not team.speaks:
            raise ValueError(f"team '{team.name}' neither moves nor speaks")
        if team.speaks and not vocabulary:
            raise ValueError(f"team '{team.name}' speaks, but messages have no numbers")
        self._team, self._vocabulary, self._continuous = team, vocabulary, continuous
        self._thrust = team.acceleration * _X, team.acceleration * _Y
        self.space: Box | Discrete[np.int64]
        if continuous:
            numbers = MOVES * team.moves + vocabulary * team.speaks
            self.space = Box(0.0, 1.0, (numbers,), np.float32)
        else:
            self.space = Discrete((MOVES if team.moves else 1) * (vocabulary if team.speaks else 1))

    def read(self, actions: NDArray[Any], force: FloatArray, message: FloatArray) -> None:
        """Writes what a team's agents do.

        Args:
            actions: of the space, [W * n, ...]; ``Box`` actions are clipped to their bounds.
            force: float64 [n, 2, W], to be written.
            message: float64 [n, C, W], to be written.
        """
        agents, _, worlds = force.shape
        if self._continuous:
            # Clipped and subtracted in the actions' own precision, as the reference does.
            clipped = np.minimum(np.maximum(actions, np.float32(0)), np.float32(1))
            numbers = clipped.reshape(worlds, agents, -1).transpose(1, 2, 0)
            if self._team.moves:
                np.subtract(numbers[:, 2:MOVES:2], numbers[:, 1:MOVES:2], out=force)
                force *= self._team.acceleration
            if self._team.speaks:
                message[:] = numbers[:, -self._vocabulary :]
            return
        numbers = actions.reshape(worlds, agents).T
        if self._team.speaks:
            symbols = numbers // MOVES if self._team.moves else numbers
            message[:] = symbols[:, None] == np.arange(self._vocabulary)[:, None]
            if self._team.moves:
                numbers = numbers - MOVES * symbols
        if self._team.moves:
            force[:, 0] = self._thrust[0][numbers]
            force[:, 1] = self._thrust[1][numbers]
