"""Good agents cover a goal and hide which landmark it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simserver.sims.particle.bodies import OTHERS, Color, Landmarks, Team
from simserver.sims.particle.palette import BLUE, GREEN, GREY, RED
from simserver.sims.particle.scenario import REWARDS, Outcome, Scenario, count_of, numbered
from simserver.sims.particle.worlds import Worlds, length, squared_length
from simserver.simulator import FloatArray


class SimpleAdversary(Scenario):
    """N good agents know which of N landmarks is the goal; an adversary does not.

    Observations, all relative: of good agents the goal, the landmarks, the others; of the
    adversary the landmarks and the others. Rewards: the good agents' is the adversary's distance
    from the goal minus that of the nearest of them; the adversary's is minus its own distance, or
    with ``rewards=original`` minus its square. Info: ``goal_distance`` of each.
    """

    description = "Particle: good agents cover a goal that an adversary must guess"
    parameters = (count_of("N", 2, "good agents, and landmarks"), REWARDS)

    def __init__(self, *, N: int, rewards: str) -> None:
        self.teams = (
            Team("adversaries", ("adversary_0",), RED, size=0.15, collides=False),
            Team("agents", numbered("agent", int(N)), BLUE, size=0.15, collides=False),
        )
        self.landmarks = (Landmarks("landmark", int(N), GREY, size=0.08),)
        self.choices = {"goal": int(N)}
        self._original = rewards == "original"

    def observe(self, worlds: Worlds) -> Mapping[str, Sequence[FloatArray]]:
        goal = worlds.chosen("landmark", worlds.choice("goal"))
        return {
            "adversaries": [worlds.relative("adversaries", "landmark", OTHERS)],
            "agents": [
                goal - worlds.position("agents"),
                worlds.relative("agents", "landmark", OTHERS),
            ],
        }

    def judge(self, worlds: Worlds) -> Outcome:
        goal = worlds.chosen("landmark", worlds.choice("goal"))
        squared = squared_length(worlds.position("adversaries") - goal)
        adversary = np.sqrt(squared)
        agents = length(worlds.position("agents") - goal)
        rewards = {
            "adversaries": -squared if self._original else -adversary,
            "agents": adversary - agents.min(axis=0),
        }
        infos = {
            "adversaries": {"goal_distance": adversary},
            "agents": {"goal_distance": agents},
        }
        return Outcome(rewards, infos)

    def colors(self, worlds: Worlds) -> list[Color]:
        colors = super().colors(worlds)
        colors[self.bodies.parts["landmark"].start + int(worlds.choice("goal")[0])] = GREEN
        return colors
