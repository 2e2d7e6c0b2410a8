"""Where jobs fit: the masks over the slots, and the earliest start of single jobs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simserver.sims.deeprm.parameters import Settings
from simserver.simulator import BoolArray, IntArray

FloatRows = NDArray[np.float32]


class Fitting:
    """The rules of SPEC section 4, step 1, for many environments at once.

    A job fits at offset t if every resource has enough free units in the time steps t to
    t + length - 1. The last row of the horizon can not be used, so a job as long as the horizon
    never fits.

    Arguments that its methods share: ``free`` float32 [n, R, H], the free units; ``slots`` float32
    [n, M, 1 + R], length and sizes of the jobs in the slots, 0 where a slot is empty.
    """

    def __init__(self, settings: Settings) -> None:
        self._horizon = settings.time_horizon
        self._resources = settings.num_res
        self._rows = np.arange(settings.time_horizon)
        self._may_be_too_long = settings.max_job_len >= settings.time_horizon
        # The original's heuristics look at free[:length], so that a job as long as the horizon
        # can look fitting (SPEC quirk Q3).
        self._judges_visible_rows = settings.impossible_jobs == "reference"

    def fits_now(self, free: FloatRows, slots: FloatRows, ahead: BoolArray, out: BoolArray) -> None:
        """Which slots hold a job that can start now.

        Args:
            free: see the class.
            slots: see the class.
            ahead: bool [n], whether a job of the environment is placed that has yet to start.
                Without one, free units never get fewer along the horizon, and the first row
                decides.
            out: bool [n, M], written to.
        """
        np.greater(slots[:, :, 0], 0, out=out)
        if self._may_be_too_long and not self._judges_visible_rows:
            out &= slots[:, :, 0] < self._horizon
        for resource in range(self._resources):
            out &= free[:, resource, :1] >= slots[:, :, 1 + resource]
        rows = ahead.nonzero()[0]
        if rows.size:
            out[rows] &= self._fits_ahead(free[rows], slots[rows])

    def _fits_ahead(self, free: FloatRows, slots: FloatRows) -> BoolArray:
        last = np.minimum(slots[:, :, 0].astype(np.int64), self._horizon) - 1
        # An empty slot has -1 here, which reads some row; it does not fit anyway.
        least = np.minimum.accumulate(free, axis=2)
        fits = np.ones(last.shape, np.bool_)
        for resource in range(self._resources):
            there = np.take_along_axis(least[:, resource], last, axis=1)
            fits &= there >= slots[:, :, 1 + resource]
        return fits

    def fits_horizon(self, free: FloatRows, slots: FloatRows) -> BoolArray:
        """Which slots hold a job that can start within the horizon, bool [n, M]."""
        short = np.zeros((*slots.shape[:2], self._horizon), np.bool_)
        for resource in range(self._resources):
            short |= free[:, None, resource] < slots[:, :, 1 + resource, None]
        lengths = slots[:, :, 0]
        return (self._run(short) >= lengths[:, :, None]).any(axis=2) & (lengths > 0)

    def earliest(self, free: FloatRows, sizes: FloatRows, lengths: IntArray) -> IntArray:
        """int64 [n]: the first offset where one job of each environment fits; -1 for none.

        Args:
            free: see the class.
            sizes: float32 [n, R]
            lengths: int64 [n], at least 1.
        """
        short = np.zeros((len(free), self._horizon), np.bool_)
        for resource in range(self._resources):
            short |= free[:, resource] < sizes[:, resource, None]
        fits = self._run(short) >= lengths[:, None]
        last = fits.argmax(axis=1)
        return np.where(fits.any(axis=1), last - lengths + 1, -1)

    def _run(self, short: BoolArray) -> IntArray:
        """How many rows in a row, up to each one, are not short; the last row always is."""
        short[..., -1] = True
        last_short = np.maximum.accumulate(np.where(short, self._rows, -1), axis=-1)
        return self._rows - last_short
