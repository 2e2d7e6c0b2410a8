"""The C++ cart-pole again, as a batch simulator: ``farsim serve examples.cpp.cart_pole:CartPole``.

It is here to be measured and tested against the other: the same seeds give the same episodes.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from simserver.simulator import (
    Batch,
    BatchedValue,
    BatchSimulator,
    Group,
    GroupBatch,
    IntArray,
    Parameter,
)

GRAVITY = 9.8  # m/s2
STEP_SECONDS = 0.02
TRACK = 2.4  # From the middle to either end, m.
UPRIGHT = 0.2095  # The largest angle, rad.
START = 0.05  # The largest deviation at the start, in each unit.
EPISODE_STEPS = 250


class CartPole(BatchSimulator):
    """An inverted pendulum on a cart, in a steady wind; see ``cart_pole.h``.

    - Observation: float32 [4], position (m), velocity (m/s), angle (rad), angular velocity (rad/s).
    - Action: float32 [1] in -1..1, a share of the force.
    - Reward: 1 for each step.
    - Episode: terminated off the track or beyond 12 degrees, truncated after 250 steps.
    """

    description = "Keep a pole upright on a cart, in a steady wind"
    parameters = tuple(
        Parameter(name, Box(low, high, (), np.float64), value, text, unit=unit, per_episode=again)
        for name, low, high, value, text, unit, again in (
            ("cart_mass", 0.1, 10.0, 1.0, "the cart's mass", "kg", False),
            ("pole_mass", 0.01, 1.0, 0.1, "the pole's mass", "kg", False),
            ("pole_length", 0.2, 4.0, 1.0, "the pole's length", "m", False),
            ("force", 1.0, 50.0, 10.0, "the force of an action of 1", "N", False),
            ("wind", -5.0, 5.0, 2.0, "a force on the cart", "N", True),
            ("initial_angle", -0.15, 0.15, 0.0, "the angle that episodes start about", "rad", True),
        )
    )
    max_episode_steps = EPISODE_STEPS

    def __init__(
        self,
        num_envs: int,
        *,
        cart_mass: float,
        pole_mass: float,
        pole_length: float,
        force: float,
        wind: float,
        initial_angle: float,
    ) -> None:
        unbounded = Box(-np.inf, np.inf, (4,), np.float32)
        self.groups = (Group(unbounded, Box(-1, 1, (1,), np.float32)),)
        self._cart_mass, self._pole_mass, self._force = cart_mass, pole_mass, force
        self._half_length = pole_length / 2
        self._given = {
            "wind": np.full(num_envs, float(wind)),
            "initial_angle": np.full(num_envs, float(initial_angle)),
        }
        self._state = np.zeros((4, num_envs))
        self._step = np.zeros(num_envs, np.int64)
        self._random = [SplitMix64(secrets.randbits(64)) for _ in range(num_envs)]

    def reset(
        self,
        envs: IntArray,
        seeds: Sequence[int] | None,
        options: Mapping[str, BatchedValue],
    ) -> Batch:
        for name, values in options.items():
            self._given[name][envs] = values
        for place, env in enumerate(envs.tolist()):
            if seeds is not None:
                self._random[env] = SplitMix64(seeds[place])
            self._state[:, env] = [self._random[env].uniform(-START, START) for _ in range(4)]
        self._state[2, envs] += self._given["initial_angle"][envs]
        self._step[envs] = 0
        used = {name: values[envs] for name, values in self._given.items()}
        return Batch([GroupBatch(self._seen(envs))], started=envs, episode_options=used)

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        velocity, angle, spin = self._state[1:, envs]
        mass = self._cart_mass + self._pole_mass
        sine, cosine = np.sin(angle), np.cos(angle)
        force = self._force * actions[0][:, 0].astype(np.float64) + self._given["wind"][envs]
        pushed = (force + self._pole_mass * self._half_length * spin * spin * sine) / mass
        turning = (GRAVITY * sine - cosine * pushed) / (
            self._half_length * (4 / 3 - self._pole_mass * cosine * cosine / mass)
        )
        speeding = pushed - self._pole_mass * self._half_length * turning * cosine / mass
        change = np.stack([velocity, speeding, spin, turning])
        self._state[:, envs] += STEP_SECONDS * change
        self._step[envs] += 1
        lost = (np.abs(self._state[0, envs]) > TRACK) | (np.abs(self._state[2, envs]) > UPRIGHT)
        late = ~lost & (self._step[envs] >= EPISODE_STEPS)
        return Batch([GroupBatch(self._seen(envs), np.ones(len(envs)), lost, late)])

    def _seen(self, envs: IntArray) -> NDArray[np.float32]:
        return np.ascontiguousarray(self._state[:, envs].T, np.float32)


class SplitMix64:
    """The generator of ``farsim/model.h`` (Steele, Lea, Flood 2014)."""

    def __init__(self, seed: int) -> None:
        self._state = seed % 2**64
        self._state = self._next()

    def uniform(self, low: float, high: float) -> float:
        """A number from ``low`` to ``high``."""
        return low + (high - low) * (self._next() >> 11) * 2.0**-53

    def _next(self) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) % 2**64
        z = self._state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)
