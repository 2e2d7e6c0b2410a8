"""The compact observation: where things are in it, its bounds and its scale."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from simserver.sims.deeprm.parameters import Settings

FloatRows = NDArray[np.float32]


class CompactLayout:
    """Named views of the vector of SPEC section 5, with H rows, R resources, M slots.

    For an array [n, length]: ``jobs_left`` [n, H], the jobs that still run after k more steps;
    ``free`` [n, R, H], the free units in each time step; ``slots`` [n, M, 1 + R], length and sizes
    of the job in each slot; ``backlog`` [n], jobs waiting behind the slots.

    Attributes:
        length: of the vector.
        plan: of ``jobs_left`` and ``free`` together, which come first.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.length = settings.compact_length
        self.plan = (1 + settings.num_res) * settings.time_horizon

    def jobs_left(self, rows: FloatRows) -> FloatRows:
        return rows[:, : self._settings.time_horizon]

    def free(self, rows: FloatRows) -> FloatRows:
        horizon, resources = self._settings.time_horizon, self._settings.num_res
        return rows[:, horizon : self.plan].reshape(len(rows), resources, horizon)

    def slots(self, rows: FloatRows) -> FloatRows:
        shape = (len(rows), self._settings.num_nw, 1 + self._settings.num_res)
        return rows[:, self.plan : -1].reshape(shape)

    def backlog(self, rows: FloatRows) -> FloatRows:
        return rows[:, -1]

    def empty(self) -> NDArray[np.float32]:
        """The vector after a reset: nothing is there."""
        rows = np.zeros((1, self.length), np.float32)
        self.free(rows)[:] = self._settings.res_slot
        return rows[0]

    def scale(self) -> NDArray[np.float32]:
        """What ``normalize_compact`` divides by: capacity, lengths, sizes, backlog size.

        The numbers of jobs left are divided by the capacity, which as many jobs can exceed as are
        placed ahead of time.
        """
        settings = self._settings
        rows = np.zeros((1, self.length), np.float32)
        self.jobs_left(rows)[:] = settings.res_slot
        self.free(rows)[:] = settings.res_slot
        self.slots(rows)[:, :, 0] = settings.max_job_len
        self.slots(rows)[:, :, 1:] = settings.max_job_size
        self.backlog(rows)[:] = settings.backlog_size
        return rows[0]

    def space(self) -> Box:
        """Of the observation, with bounds that follow from the settings."""
        high = self.scale()
        self.jobs_left(high[None])[:] = self._settings.simu_len
        if self._settings.normalize_compact:
            high = high / self.scale()
        return Box(np.zeros_like(high), high, dtype=np.float32)
