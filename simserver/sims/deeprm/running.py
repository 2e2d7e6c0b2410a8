"""The list of running jobs: when finished ones leave it, and what they cost until then.

Two rules with one interface. ``ExactRunning`` needs no list: what it must know of the future
follows from the moment a job is placed. ``ReferenceRunning`` repeats the original (SPEC quirk Q1),
which removes from a list while walking along it, so that of finished jobs next to each other every
second one stays a step longer.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from simserver.sims.deeprm.job_table import JobTable
from simserver.sims.deeprm.parameters import Settings
from simserver.simulator import FloatArray, IntArray


class Running(Protocol):
    """What the cluster asks of the rule.

    ``state`` holds its arrays by name, each with a leading environment dimension.
    """

    state: dict[str, NDArray[Any]]

    def begin(self, envs: IntArray) -> None:
        """No job runs in ``envs``."""

    def start(self, envs: IntArray, jobs: IntArray, lengths: IntArray, ends: IntArray) -> None:
        """A job of each of ``envs`` is placed; it ends ``ends`` time steps from now."""

    def advance(
        self, envs: IntArray, times: IntArray, jobs_left: NDArray[np.float32]
    ) -> FloatArray:
        """Time has come to ``times``; finished jobs leave.

        Args:
            envs: int64 [n]
            times: int64 [n]
            jobs_left: float32 [num_envs, H], the number of jobs still running after k more steps
                as it is when jobs leave exactly; corrected in place for ``envs``.

        Returns:
            float64 [n], the delay penalty, summed in the order of the list.
        """

    def count(self, envs: IntArray | slice) -> IntArray:
        """int64, the jobs in the list."""


def penalty_by_length(penalty: float, settings: Settings) -> FloatArray:
    """float64 [max_job_len + 1]: penalty / length; 0 for length 0, which means no job."""
    table = np.zeros(settings.max_job_len + 1)
    table[1:] = penalty / np.arange(1, settings.max_job_len + 1)
    return table


class ExactRunning:
    """Finished jobs leave at once.

    The penalty k steps ahead is the sum over placed jobs that will still run then. Adding each
    job's share when it is placed sums in the order of the list, to the same bits.
    """

    def __init__(self, settings: Settings, num_envs: int, jobs_left: NDArray[np.float32]) -> None:
        horizon = settings.time_horizon
        self._jobs_left = jobs_left
        self._delay = penalty_by_length(settings.delay_penalty, settings)
        self._below = np.tri(horizon + 1, horizon, -1)
        # One more column than the horizon, always 0, to shift in from.
        self._ahead = np.zeros((num_envs, horizon + 1))
        self.state = {"delay_ahead": self._ahead}

    def begin(self, envs: IntArray) -> None:
        self._ahead[envs] = 0.0

    def start(self, envs: IntArray, jobs: IntArray, lengths: IntArray, ends: IntArray) -> None:
        share = self._below.take(ends, axis=0)
        share *= self._delay.take(lengths)[:, None]
        share += self._ahead.take(envs, axis=0)[:, :-1]
        self._ahead[envs, :-1] = share

    def advance(
        self, envs: IntArray, times: IntArray, jobs_left: NDArray[np.float32]
    ) -> FloatArray:
        shifted = self._ahead.take(envs, axis=0)[:, 1:]
        self._ahead[envs, :-1] = shifted
        return shifted[:, 0]

    def count(self, envs: IntArray | slice) -> IntArray:
        return self._jobs_left[envs, 0].astype(np.int64)


class ReferenceRunning:
    """Finished jobs leave as in the original."""

    def __init__(self, settings: Settings, num_envs: int, table: JobTable) -> None:
        horizon = settings.time_horizon
        self._horizon = horizon
        self._table = table
        self._delay = penalty_by_length(settings.delay_penalty, settings)
        self._jobs = np.zeros((num_envs, settings.simu_len), np.int64)
        self._count = np.zeros(num_envs, np.int64)
        self.state = {"running_jobs": self._jobs, "running_count": self._count}
        # Row horizon + f: what a job that finishes f steps from now adds to jobs_left. The
        # original takes it off from entry f on, where a negative f counts from the end; row 0
        # adds nothing.
        offsets = np.arange(-horizon, horizon)
        first = np.where(offsets >= 0, offsets, horizon + offsets)
        self._share = (np.arange(horizon) < first[:, None]).astype(np.float32)

    def begin(self, envs: IntArray) -> None:
        self._count[envs] = 0

    def start(self, envs: IntArray, jobs: IntArray, lengths: IntArray, ends: IntArray) -> None:
        count = self._count[envs]
        self._jobs[envs, count] = jobs
        self._count[envs] = count + 1

    def advance(
        self, envs: IntArray, times: IntArray, jobs_left: NDArray[np.float32]
    ) -> FloatArray:
        count = self._count[envs]
        most = int(count.max())
        if most == 0:
            return np.zeros(len(envs))
        places = np.arange(most)
        jobs = self._jobs[envs, :most]
        listed = places < count[:, None]
        finish = self._table.finish[envs[:, None], jobs]
        finished = listed & (finish <= times[:, None])
        # The first of a row of finished jobs is removed, the next is skipped, and so on.
        unfinished = np.where(finished, -1, places)
        in_row = places - np.maximum.accumulate(unfinished, axis=1)
        stay = listed & ~(finished & (in_row % 2 == 1))

        order = np.argsort(~stay, axis=1, kind="stable")
        count = stay.sum(axis=1)
        jobs = np.take_along_axis(jobs, order, axis=1)
        self._jobs[envs, :most] = jobs
        self._count[envs] = count

        listed = places < count[:, None]
        ahead = np.take_along_axis(finish, order, axis=1) - times[:, None]
        rows = np.where(listed, np.maximum(ahead, -self._horizon) + self._horizon, 0)
        jobs_left[envs] = self._share[rows].sum(axis=1)
        # A second column keeps NumPy from summing pairwise: sums along a row are in order.
        delays = np.zeros((most, max(2, len(envs))))
        lengths = self._table.length[envs[:, None], jobs] * listed
        delays[:, : len(envs)] = self._delay[lengths].T
        return np.add.reduce(delays, axis=0)[: len(envs)]

    def count(self, envs: IntArray | slice) -> IntArray:
        return self._count[envs]
