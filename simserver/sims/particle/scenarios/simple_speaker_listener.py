"""One knows where to go and can not move, the other moves and does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simserver.sims.particle.bodies import Color, Landmarks, Team
from simserver.sims.particle.palette import DISTINCT, GREY, SLATE, lighter
from simserver.sims.particle.scenario import REWARDS, Outcome, Scenario
from simserver.sims.particle.worlds import Worlds, squared_length
from simserver.simulator import FloatArray

#: What the speaker sees of the colour of each landmark: [3, landmarks].
_COLORS = np.array([[0.65, 0.15, 0.15], [0.15, 0.65, 0.15], [0.15, 0.15, 0.65]])


class SimpleSpeakerListener(Scenario):
    """A speaker tells a listener which of three landmarks to go to.

    Observations: of the speaker the goal's colour; of the listener its velocity, the landmarks
    relative to it, the speaker's message. The reward of both is minus the listener's squared
    distance from the goal; with ``rewards=original`` twice that. Info: the listener's
    ``goal_distance``.
    """

    description = "Particle: a speaker tells a listener which landmark to go to"
    parameters = (REWARDS,)
    teams = (
        Team("speaker", ("speaker_0",), SLATE, 0.075, moves=False, speaks=True, collides=False),
        Team("listener", ("listener_0",), GREY, 0.075, collides=False),
    )
    landmarks = (Landmarks("landmark", 3, GREY, size=0.04),)
    vocabulary = 3
    choices: Mapping[str, int] = {"goal": 3}

    def __init__(self, *, rewards: str) -> None:
        self._original = rewards == "original"

    def observe(self, worlds: Worlds) -> Mapping[str, Sequence[FloatArray]]:
        return {
            "speaker": [_COLORS[None, :, worlds.choice("goal")]],
            "listener": [
                worlds.velocity("listener"),
                worlds.relative("listener", "landmark"),
                worlds.heard("listener", "speaker"),
            ],
        }

    def judge(self, worlds: Worlds) -> Outcome:
        goal = worlds.chosen("landmark", worlds.choice("goal"))
        squared = squared_length(worlds.position("listener") - goal)
        reward = -2 * squared if self._original else -squared
        info = {"goal_distance": np.sqrt(squared)}
        return Outcome({"speaker": reward, "listener": reward}, {"listener": info})

    def colors(self, worlds: Worlds) -> list[Color]:
        colors = super().colors(worlds)
        colors[self.bodies.parts["landmark"]] = DISTINCT
        goal = int(worlds.choice("goal")[0])
        colors[self.bodies.parts["listener"]] = [lighter(DISTINCT[goal])]
        return colors
