"""One agent, one landmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simserver.sims.particle.bodies import Landmarks, Team
from simserver.sims.particle.palette import AMBER, BLUE
from simserver.sims.particle.scenario import Outcome, Scenario
from simserver.sims.particle.worlds import Worlds, squared_length
from simserver.simulator import FloatArray


class Simple(Scenario):
    """An agent goes to a landmark.

    Observation: own velocity, position of the landmark relative to it. Reward: minus the squared
    distance. Info: ``goal_distance``.
    """

    description = "Particle: one agent goes to a landmark"
    teams = (Team("agents", ("agent_0",), BLUE, collides=False),)
    landmarks = (Landmarks("landmark", 1, AMBER),)

    def observe(self, worlds: Worlds) -> Mapping[str, Sequence[FloatArray]]:
        return {"agents": [worlds.velocity("agents"), worlds.relative("agents", "landmark")]}

    def judge(self, worlds: Worlds) -> Outcome:
        squared = squared_length(worlds.position("agents") - worlds.position("landmark"))
        return Outcome({"agents": -squared}, {"agents": {"goal_distance": np.sqrt(squared)}})
