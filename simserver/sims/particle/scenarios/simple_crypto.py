"""Alice tells Bob a secret that Eve overhears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simserver.sims.particle.bodies import Color, Landmarks, Team
from simserver.sims.particle.palette import AMBER, BLUE, GREEN, RED, SLATE, lighter
from simserver.sims.particle.scenario import Outcome, Scenario
from simserver.sims.particle.worlds import Worlds
from simserver.simulator import BoolArray, FloatArray, IntArray

_SYMBOLS = 4
_ONE_HOT = np.eye(_SYMBOLS)


class SimpleCrypto(Scenario):
    """Alice and Bob share a key; Bob and Eve say what they think Alice's secret is.

    Nobody moves. Observations: of Alice the secret and the key, of Bob the key and Alice's
    message, of Eve Alice's message; secret and key are one of two one-hot vectors. Rewards, with
    the squared errors of what they say: Eve's is minus hers; Alice's and Bob's is hers minus
    Bob's. The error of a message that is all 0 counts as 0. Infos: ``correct`` of Bob and of Eve,
    whether the largest number of their message is the secret's.
    """

    description = "Particle: Alice tells Bob a secret that Eve overhears"
    teams = tuple(
        Team(name, (f"{name}_0",), color, moves=False, speaks=True, collides=False)
        for name, color in (("eve", RED), ("bob", BLUE), ("alice", SLATE))
    )
    landmarks = (Landmarks("landmark", 2, AMBER),)
    vocabulary = _SYMBOLS
    choices: Mapping[str, int] = {"goal": 2, "key": 2}

    def observe(self, worlds: Worlds) -> Mapping[str, Sequence[FloatArray]]:
        goal, key = (_vector(worlds.choice(name))[None] for name in ("goal", "key"))
        heard = worlds.message("alice")
        return {"eve": [heard], "bob": [key, heard], "alice": [goal, key]}

    def judge(self, worlds: Worlds) -> Outcome:
        goal = worlds.choice("goal")
        eve, eve_correct = _error(worlds.message("eve")[0], goal)
        bob, bob_correct = _error(worlds.message("bob")[0], goal)
        rewards = {"eve": -eve, "bob": eve - bob, "alice": eve - bob}
        infos = {"eve": {"correct": eve_correct}, "bob": {"correct": bob_correct}}
        return Outcome(rewards, infos)

    def colors(self, worlds: Worlds) -> list[Color]:
        colors = super().colors(worlds)
        two = (AMBER, GREEN)
        colors[self.bodies.parts["landmark"]] = two
        colors[self.bodies.parts["alice"]] = [lighter(two[int(worlds.choice("goal")[0])])]
        return colors


def _vector(index: IntArray) -> FloatArray:
    """One-hot vectors: float64 [4, W]."""
    return _ONE_HOT[:, index]


def _error(message: FloatArray, goal: IntArray) -> tuple[FloatArray, BoolArray]:
    """Squared error of messages [4, W], [W]; and whether they name the goal."""
    said = message.any(axis=0)
    error: FloatArray = np.square(message - _vector(goal)).sum(axis=0)
    return error * said, (message.argmax(axis=0) == goal) & said
