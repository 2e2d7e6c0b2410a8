"""Agents spread over landmarks without bumping into each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simserver.sims.particle.bodies import OTHERS, Landmarks, Team
from simserver.sims.particle.palette import AMBER, BLUE
from simserver.sims.particle.scenario import (
    LOCAL_RATIO,
    REWARDS,
    TERMINATE_ON_SUCCESS,
    Outcome,
    Scenario,
    count_of,
    numbered,
)
from simserver.sims.particle.worlds import Worlds
from simserver.simulator import FloatArray

#: A landmark with an agent nearer than this is occupied.
_OCCUPIED = 0.1


class SimpleSpread(Scenario):
    """N agents cover N landmarks.

    Observation: own velocity and position, the landmarks and the others relative to it, and two
    zeros for each other agent, whose messages they once were. The reward of all, D, is minus the
    sum over the landmarks of the distance to the nearest agent; an agent's own is minus the number
    c of others it touches; it gets ``local_ratio`` of its own and the rest of D. With
    ``rewards=original`` all get the sum over the agents of D - c - 1, since there an agent also
    touches itself; ``local_ratio`` has no effect then. With N = 3 and ``local_ratio`` 0.5, the
    original's return, summed over agents and 25 steps, is 6 times the other's minus 225.
    Success: all landmarks are occupied, which is by an agent nearer than 0.1.

    Infos: ``collisions`` c; of the world, so equal for all agents, ``landmark_distance`` -D and
    ``occupied_landmarks``.
    """

    description = "Particle: agents spread over landmarks without colliding"
    parameters = (
        count_of("N", 3, "agents, and landmarks"),
        LOCAL_RATIO,
        TERMINATE_ON_SUCCESS,
        REWARDS,
    )

    def __init__(self, *, N: int, local_ratio: Any, terminate_on_success: int, rewards: str):
        self.teams = (Team("agents", numbered("agent", int(N)), BLUE, size=0.15),)
        self.landmarks = (Landmarks("landmark", int(N), AMBER),)
        self._count = int(N)
        self._local = float(local_ratio)
        self._terminates = bool(terminate_on_success)
        self._original = rewards == "original"

    def observe(self, worlds: Worlds) -> Mapping[str, Sequence[FloatArray]]:
        return {
            "agents": [
                worlds.velocity("agents"),
                worlds.position("agents"),
                worlds.relative("agents", "landmark", OTHERS),
                np.zeros((self._count, 2 * (self._count - 1), worlds.count)),
            ]
        }

    def judge(self, worlds: Worlds) -> Outcome:
        nearest = worlds.distance("agents", "landmark").min(axis=0)
        distance = sum(nearest)
        occupied = (nearest < _OCCUPIED).sum(axis=0, dtype=np.int32)
        # An agent touches itself as well.
        collisions = worlds.touching("agents", "agents").sum(axis=1, dtype=np.int32) - 1
        if self._original:
            rewards = -self._count * (distance + 1) - collisions.sum(axis=0)
        else:
            rewards = -distance * (1 - self._local) + -collisions * self._local
        infos = {
            "collisions": collisions,
            "landmark_distance": distance,
            "occupied_landmarks": occupied,
        }
        success = occupied == self._count if self._terminates else None
        return Outcome({"agents": rewards}, {"agents": infos}, success)
