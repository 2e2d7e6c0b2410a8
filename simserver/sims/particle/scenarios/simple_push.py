"""An adversary keeps an agent away from its goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simserver.sims.particle.bodies import OTHERS, Color, Landmarks, Team
from simserver.sims.particle.palette import BLUE, GREEN, RED, lighter
from simserver.sims.particle.scenario import Outcome, Scenario
from simserver.sims.particle.worlds import Worlds, length
from simserver.simulator import FloatArray

#: What agents see of colours: of the agent for each goal [3, goals], of the landmarks [6].
_OWN = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]])
_LANDMARKS = np.array([0.1, 0.9, 0.1, 0.1, 0.1, 0.9])
_SHOWN = (GREEN, BLUE)


class SimplePush(Scenario):
    """An agent goes to one of two landmarks; an adversary that does not know which pushes it away.

    Observations: of the agent its velocity, the goal, its own colour, which is like the goal's,
    the landmarks, their colours, the adversary; of the adversary its velocity, the landmarks, the
    agent; positions are relative. Rewards: the agent's is minus its distance from the goal; the
    adversary's is the agent's distance minus its own. Infos: ``goal_distance``, and ``collisions``
    with the other.
    """

    description = "Particle: an adversary pushes an agent away from its goal"
    teams = (Team("adversaries", ("adversary_0",), RED), Team("agents", ("agent_0",), BLUE))
    landmarks = (Landmarks("landmark", 2, GREEN),)
    choices: Mapping[str, int] = {"goal": 2}

    def observe(self, worlds: Worlds) -> Mapping[str, Sequence[FloatArray]]:
        goal = worlds.choice("goal")
        colors = np.broadcast_to(_LANDMARKS[:, None], (1, 6, worlds.count))
        return {
            "adversaries": [
                worlds.velocity("adversaries"),
                worlds.relative("adversaries", "landmark", OTHERS),
            ],
            "agents": [
                worlds.velocity("agents"),
                worlds.chosen("landmark", goal) - worlds.position("agents"),
                _OWN[None, :, goal],
                worlds.relative("agents", "landmark"),
                colors,
                worlds.relative("agents", OTHERS),
            ],
        }

    def judge(self, worlds: Worlds) -> Outcome:
        goal = worlds.chosen("landmark", worlds.choice("goal"))
        agent = length(worlds.position("agents") - goal)
        adversary = length(worlds.position("adversaries") - goal)
        collisions = worlds.touching("agents", "adversaries")[0].astype(np.int32)
        rewards = {"adversaries": agent - adversary, "agents": -agent}
        infos = {
            "adversaries": {"goal_distance": adversary, "collisions": collisions},
            "agents": {"goal_distance": agent, "collisions": collisions},
        }
        return Outcome(rewards, infos)

    def colors(self, worlds: Worlds) -> list[Color]:
        colors = super().colors(worlds)
        colors[self.bodies.parts["landmark"]] = _SHOWN
        colors[self.bodies.parts["agents"]] = [lighter(_SHOWN[int(worlds.choice("goal")[0])])]
        return colors
