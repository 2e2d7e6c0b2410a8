"""Random numbers of the worlds: a stream for each, with the draws of the reference."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from simserver.simulator import FloatArray, IntArray

# PCG64's state and increment, 128 bits each, and the half of a 64-bit number that it may have left.
_STATE = struct.Struct("<16s 16s 2I")


class Streams:
    """A ``Generator(PCG64(seed))`` for each world, as ``gymnasium.utils.seeding`` makes it.

    Before any seed the operating system gives each world a stream of its own.
    """

    size = _STATE.size

    def __init__(self, num_envs: int) -> None:
        children = np.random.SeedSequence().spawn(num_envs)
        self._random = [np.random.Generator(np.random.PCG64(child)) for child in children]

    def seed(self, envs: IntArray, seeds: Sequence[int]) -> None:
        """Gives worlds the streams that belong to 64-bit seeds."""
        for env, seed in zip(envs.tolist(), seeds, strict=True):
            # SeedSequence takes no negative number; seeds are signed 64-bit ones.
            self._random[env] = np.random.Generator(np.random.PCG64(seed % 2**64))

    def draw(
        self, envs: IntArray, bounds: Sequence[int], count: int
    ) -> tuple[IntArray, FloatArray]:
        """First integers below each of ``bounds``, then uniform numbers in [0, 1).

        Returns:
            int64 [bounds, envs] and float64 [count, envs]
        """
        integers = np.empty((len(bounds), len(envs)), np.int64)
        numbers = np.empty((len(envs), count))
        for place, env in enumerate(envs.tolist()):
            random = self._random[env]
            for which, bound in enumerate(bounds):
                integers[which, place] = random.integers(bound)
            random.random(out=numbers[place])
        return integers, np.ascontiguousarray(numbers.T)

    def dump(self, env: int) -> bytes:
        """Where a world's stream is, in ``size`` bytes."""
        state: Any = self._random[env].bit_generator.state
        return _STATE.pack(
            state["state"]["state"].to_bytes(16, "little"),
            state["state"]["inc"].to_bytes(16, "little"),
            state["has_uint32"],
            state["uinteger"],
        )

    @staticmethod
    def parse(data: bytes) -> np.random.Generator:
        """The stream that ``dump`` wrote.

        Raises:
            ValueError: it is none.
        """
        state, increment, has_half, half = _STATE.unpack(data)
        # PCG64's increment is always odd.
        if not increment[0] & 1 or has_half > 1:
            raise ValueError("the random stream in the saved state has been changed")
        random = np.random.Generator(np.random.PCG64(0))
        random.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {
                "state": int.from_bytes(state, "little"),
                "inc": int.from_bytes(increment, "little"),
            },
            "has_uint32": has_half,
            "uinteger": half,
        }
        return random

    def put(self, env: int, random: np.random.Generator) -> None:
        """Gives a world a stream."""
        self._random[env] = random
