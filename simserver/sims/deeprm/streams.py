"""Random numbers of the environments: one stream each, told apart by key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simserver.simulator import FloatArray, IntArray

_PURPOSES = {"sequence": 0, "colors": 1, "order": 2}


class Streams:
    """Uniform numbers by (environment's key, index, purpose), from the Philox generator.

    Numbers depend on nothing else: not on the batch, nor on what was drawn before. A key comes
    from a seed; before any seed it comes from the operating system, different for each
    environment.

    Attributes:
        keys: uint64 [num_envs, 2]
    """

    def __init__(self, num_envs: int) -> None:
        children = np.random.SeedSequence().spawn(num_envs)
        self.keys = np.stack([child.generate_state(2, np.uint64) for child in children])
        self._philox = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._philox)
        self._state = self._philox.state
        self._counter = self._state["state"]["counter"]
        self._key = self._state["state"]["key"]

    def seed(self, envs: IntArray, seeds: Sequence[int]) -> None:
        """Gives environments the streams that belong to 64-bit seeds."""
        for env, seed in zip(envs.tolist(), seeds, strict=True):
            # SeedSequence takes no negative number; seeds are signed 64-bit ones.
            sequence = np.random.SeedSequence(seed % 2**64)
            self.keys[env] = sequence.generate_state(2, np.uint64)

    def uniform(self, envs: IntArray, indices: IntArray, purpose: str, count: int) -> FloatArray:
        """float64 [envs, count] in [0, 1): the numbers ``indices`` [envs] of a purpose."""
        numbers = np.empty((len(envs), count))
        for row, (env, index) in enumerate(zip(envs.tolist(), indices.tolist(), strict=True)):
            # Words 0 and 1 count blocks within one draw; 2 and 3 keep the draws apart.
            self._counter[:] = (0, 0, index, _PURPOSES[purpose])
            self._key[:] = self.keys[env]
            self._philox.state = self._state
            self._generator.random(out=numbers[row])
        return numbers
