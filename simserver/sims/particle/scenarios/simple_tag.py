"""Slow predators catch fast prey between obstacles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simserver.sims.particle.bodies import OTHERS, Landmarks, Team
from simserver.sims.particle.palette import GREEN, RED, SLATE
from simserver.sims.particle.scenario import (
    TERMINATE_ON_SUCCESS,
    Outcome,
    Scenario,
    count_of,
    numbered,
)
from simserver.sims.particle.scenarios.chase import LANDMARK_RANGE, out_of_bounds
from simserver.sims.particle.worlds import Worlds
from simserver.simulator import FloatArray


class SimpleTag(Scenario):
    """Adversaries chase the agents, which are faster.

    Observation: own velocity and position; relative to it the obstacles and the others; the
    velocities of the (other) good agents. Rewards: every adversary gets 10 for each contact of any
    adversary with an agent; an agent loses 10 for each of its own, and up to 20 for being away
    from the middle. Success: every agent is touched. Info: ``collisions`` with the other side.
    """

    description = "Particle: adversaries chase faster agents between obstacles"
    parameters = (
        count_of("num_good", 1, "agents"),
        count_of("num_adversaries", 3, "adversaries"),
        count_of("num_obstacles", 2, "obstacles", low=0),
        TERMINATE_ON_SUCCESS,
    )

    def __init__(
        self,
        *,
        num_good: int,
        num_adversaries: int,
        num_obstacles: int,
        terminate_on_success: int,
    ) -> None:
        self.teams = (
            Team(
                "adversaries",
                numbered("adversary", int(num_adversaries)),
                RED,
                size=0.075,
                acceleration=3.0,
                max_speed=1.0,
            ),
            Team(
                "agents",
                numbered("agent", int(num_good)),
                GREEN,
                size=0.05,
                acceleration=4.0,
                max_speed=1.3,
            ),
        )
        self.landmarks = (
            Landmarks("landmark", int(num_obstacles), SLATE, size=0.2, collides=True),
        )
        self._terminates = bool(terminate_on_success)

    def place(self, uniform: FloatArray) -> FloatArray:
        positions = super().place(uniform)
        obstacles = self.bodies.parts["landmark"]
        draws = uniform.reshape(positions.shape)[obstacles]
        positions[obstacles] = -LANDMARK_RANGE + 2 * LANDMARK_RANGE * draws
        return positions

    def observe(self, worlds: Worlds) -> Mapping[str, Sequence[FloatArray]]:
        return {
            team: [
                worlds.velocity(team),
                worlds.position(team),
                worlds.relative(team, "landmark", OTHERS),
                worlds.velocities_seen(team, "agents"),
            ]
            for team in ("adversaries", "agents")
        }

    def judge(self, worlds: Worlds) -> Outcome:
        contacts = worlds.touching("adversaries", "agents")
        catches = contacts.sum(axis=1, dtype=np.int32)
        caught = contacts.sum(axis=0, dtype=np.int32)
        bounds = out_of_bounds(worlds.position("agents"))
        rewards = {
            "adversaries": 10.0 * catches.sum(axis=0),
            "agents": -10.0 * caught - bounds[:, 0] - bounds[:, 1],
        }
        infos = {"adversaries": {"collisions": catches}, "agents": {"collisions": caught}}
        success = (caught > 0).all(axis=0) if self._terminates else None
        return Outcome(rewards, infos, success)
