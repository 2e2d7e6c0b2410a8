"""The jobs of each environment's episode, by id, from arrival to finish."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserver.sims.deeprm.parameters import Settings
from simserver.simulator import IntArray


class JobTable:
    """Every job of an episode, one row for each, in order of arrival.

    At most one job arrives in a time step, so ``simu_len`` rows are enough. All arrivals of the
    sequence are entered when an episode begins; the row's number is the id that the job will have
    once it has arrived, unless a job before it is dropped. The last row, ``none``, is no job.

    Attributes:
        none: the row that is no job: length and sizes 0.
        enter: int32 [num_envs, none + 1], arrival time; -1 for rows without a job.
        start: int32, -1 until the job is placed.
        finish: int32, -1 until the job is placed.
        length: int64, time steps; 0 for rows without a job.
        features: float32 [num_envs, none + 1, 1 + R], length and sizes.
        order: int64, larger for jobs placed later.
        state: the arrays by name, each with a leading environment dimension.
    """

    def __init__(self, settings: Settings, num_envs: int) -> None:
        self.none = settings.simu_len
        shape = (num_envs, self.none + 1)
        self.enter = np.full(shape, -1, np.int32)
        self.start = np.full(shape, -1, np.int32)
        self.finish = np.full(shape, -1, np.int32)
        self.length = np.zeros(shape, np.int64)
        self.features = np.zeros((*shape, 1 + settings.num_res), np.float32)
        self.order = np.zeros(shape, np.int64)
        self._rows = self.features.reshape(-1, 1 + settings.num_res)
        self._placed = 0
        self.state: dict[str, NDArray[Any]] = {
            "enter": self.enter,
            "start": self.start,
            "finish": self.finish,
            "length": self.length,
            "features": self.features,
            "order": self.order,
        }

    def fill(self, envs: IntArray, lengths: IntArray, sizes: IntArray) -> None:
        """Enters sequences, int64 [k, simu_len] and [k, simu_len, R], for new episodes."""
        none = self.none
        arrives = lengths > 0
        arrives[:, 0] = False  # The original's sequence index starts at 1 (SPEC quirk Q4).
        times = np.argsort(~arrives, axis=1, kind="stable")
        there = np.arange(none) < arrives.sum(axis=1)[:, None]
        length = np.take_along_axis(lengths, times, axis=1) * there
        self.enter[envs, :none] = np.where(there, times, -1)
        self.start[envs] = -1
        self.finish[envs] = -1
        self.length[envs, :none] = length
        self.features[envs, :none, 0] = length
        self.features[envs, :none, 1:] = (
            np.take_along_axis(sizes, times[:, :, None], axis=1) * there[:, :, None]
        )

    def flat(self, envs: IntArray, jobs: IntArray) -> IntArray:
        """Indices of jobs in the flattened table."""
        return envs * (self.none + 1) + jobs

    def features_of(self, flat: IntArray) -> NDArray[np.float32]:
        """float32 [n, 1 + R], a copy."""
        return self._rows.take(flat, axis=0)

    def place(self, flat: IntArray, start: IntArray, finish: IntArray) -> None:
        """Writes down when jobs start and finish."""
        self.start.put(flat, start)
        self.finish.put(flat, finish)
        self._placed += 1
        self.order.put(flat, self._placed)

    def loaded(self) -> None:
        """Rows have been replaced from outside; jobs placed from now on come after those."""
        self._placed = max(self._placed, int(self.order.max()))

    def drop(self, envs: IntArray, jobs: IntArray) -> None:
        """Takes out jobs that have just arrived; later ones move up."""
        columns = np.arange(self.none)
        source = columns + (columns >= jobs[:, None])
        for array in (self.enter, self.length):
            array[envs, :-1] = np.take_along_axis(array[envs], source, axis=1)
        self.features[envs, :-1] = np.take_along_axis(
            self.features[envs], source[:, :, None], axis=1
        )
