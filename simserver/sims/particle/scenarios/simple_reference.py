"""Two agents tell each other where to go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simserver.sims.particle.bodies import OTHERS, Color, Landmarks, Team
from simserver.sims.particle.palette import DISTINCT, GREY, lighter
from simserver.sims.particle.scenario import LOCAL_RATIO, REWARDS, Outcome, Scenario, numbered
from simserver.sims.particle.worlds import Worlds, squared_length
from simserver.simulator import FloatArray

#: What agents see of the colour of each landmark: [3, landmarks].
_COLORS = np.array([[0.75, 0.25, 0.25], [0.25, 0.75, 0.25], [0.25, 0.25, 0.75]])


class SimpleReference(Scenario):
    """Each of two agents knows which of three landmarks the other one has to go to.

    Observation: own velocity, the landmarks relative to it, the colour of the other's goal, the
    other's message. An agent's own term is minus the other's distance from its goal; the reward is
    ``local_ratio`` of that and the rest of the mean of both; with ``rewards=original`` the sum of
    minus both squared distances, without regard to ``local_ratio``. Info: ``goal_distance`` of
    the agent from where it has to go.
    """

    description = "Particle: two agents tell each other which landmark to go to"
    parameters = (LOCAL_RATIO, REWARDS)
    teams = (Team("agents", numbered("agent", 2), GREY, speaks=True, collides=False),)
    landmarks = (Landmarks("landmark", 3, GREY),)
    vocabulary = 10
    #: Of agent 1, which agent 0 knows; and the other way round.
    choices: Mapping[str, int] = {"goal_of_1": 3, "goal_of_0": 3}

    def __init__(self, *, local_ratio: Any, rewards: str) -> None:
        self._local = float(local_ratio)
        self._original = rewards == "original"

    def observe(self, worlds: Worlds) -> Mapping[str, Sequence[FloatArray]]:
        known = _COLORS[:, worlds.choices].transpose(1, 0, 2)
        return {
            "agents": [
                worlds.velocity("agents"),
                worlds.relative("agents", "landmark"),
                known,
                worlds.heard("agents", OTHERS),
            ]
        }

    def judge(self, worlds: Worlds) -> Outcome:
        agents = worlds.position("agents")
        goals = [
            worlds.chosen("landmark", worlds.choice(name)) for name in ("goal_of_1", "goal_of_0")
        ]
        squared = np.stack([squared_length(agents[1 - i] - goal) for i, goal in enumerate(goals)])
        distance = np.sqrt(squared)
        if self._original:
            rewards = -(squared[0] + squared[1])
        else:
            shared = -(distance[0] + distance[1]) / 2
            rewards = shared * (1 - self._local) + -distance * self._local
        return Outcome({"agents": rewards}, {"agents": {"goal_distance": distance[::-1]}})

    def colors(self, worlds: Worlds) -> list[Color]:
        colors = super().colors(worlds)
        of_1, of_0 = worlds.choices[:, 0].tolist()
        colors[self.bodies.parts["agents"]] = [lighter(DISTINCT[goal]) for goal in (of_0, of_1)]
        colors[self.bodies.parts["landmark"]] = DISTINCT
        return colors
