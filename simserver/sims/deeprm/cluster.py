"""The cluster, its slots and its backlog: the state of all environments, and their step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserver.sims.deeprm.fitting import Fitting
from simserver.sims.deeprm.image import Image
from simserver.sims.deeprm.job_table import JobTable
from simserver.sims.deeprm.layout import CompactLayout
from simserver.sims.deeprm.parameters import Settings
from simserver.sims.deeprm.running import (
    ExactRunning,
    ReferenceRunning,
    Running,
    penalty_by_length,
)
from simserver.simulator import BoolArray, FloatArray, IntArray


@dataclass
class Outcome:
    """What a step did, one row for each environment stepped.

    Attributes:
        reward: float64
        terminated: bool
        truncated: bool
        time_advanced: bool, whether the clock moved.
    """

    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    time_advanced: BoolArray


class Cluster:
    """All environments of a batch, in arrays with a leading environment dimension.

    The compact observation is itself the state of the cluster and of the slots: there is nothing
    to build after a step. Environments whose job is placed and environments whose time advances
    are told apart by index arrays.

    Jobs are rows of ``jobs``. An empty slot holds the row ``jobs.none``. A job goes to the backlog
    only while all slots are full, and leaves it from its head, so the backlog is always the last
    ``backlog`` jobs that have arrived.

    Attributes:
        compact: float32 [num_envs, length], the compact observations, not normalised.
        jobs: the jobs of the episodes.
        image: the images, if they are observed.
        running: the running jobs.
        time: int64 [num_envs]
        backlog: int64 [num_envs], jobs in the backlog.
        dropped: int64 [num_envs], jobs that found the backlog full.
        arrived: int64 [num_envs], jobs that have arrived and were not dropped.
        state: the arrays by name, each with a leading environment dimension.
    """

    def __init__(self, settings: Settings, num_envs: int) -> None:
        self._settings = settings
        slots = settings.num_nw
        self._layout = layout = CompactLayout(settings)
        self._empty = layout.empty()
        self.compact = np.tile(self._empty, (num_envs, 1))
        self._jobs_left = layout.jobs_left(self.compact)
        self._free = layout.free(self.compact)
        self._slots = layout.slots(self.compact)
        self._backlog_seen = layout.backlog(self.compact)

        self.jobs = JobTable(settings, num_envs)
        self.image = Image(settings, num_envs) if settings.sees_image else None
        self.running: Running
        if settings.running_removal == "exact":
            self.running = ExactRunning(settings, num_envs, self._jobs_left)
        else:
            self.running = ReferenceRunning(settings, num_envs, self.jobs)
        self._fitting = Fitting(settings)

        self.time = np.zeros(num_envs, np.int64)
        self.backlog = np.zeros(num_envs, np.int64)
        self.dropped = np.zeros(num_envs, np.int64)
        self.arrived = np.zeros(num_envs, np.int64)
        self._latest_start = np.zeros(num_envs, np.int64)
        # One more slot, always empty, for the void action.
        self._slot_job = np.full((num_envs, slots + 1), self.jobs.none)
        # Row 0: the penalty of running jobs; then one row for each slot. The last column keeps
        # NumPy from summing pairwise in a batch of one: sums down the rows are in order.
        self._penalties = np.zeros((1 + slots, num_envs + 1))
        # Kept between steps if it is seen, as it also tells what can be placed without a search.
        self._tracks_fits = settings.action_mask == "fits_now" or settings.masks_in_info
        self._fits_now = np.zeros((num_envs, slots + 1), np.bool_)
        self._fits_now[:, -1] = True

        self._hold = penalty_by_length(settings.hold_penalty, settings)
        self._dismiss = penalty_by_length(settings.dismiss_penalty, settings)
        self._rows_below = np.tri(settings.time_horizon + 1, settings.time_horizon, -1, np.float32)
        self._new_row = np.full(1 + settings.num_res, settings.res_slot, np.float32)
        self._new_row[0] = 0.0
        self.state: dict[str, NDArray[Any]] = {
            "compact": self.compact,
            "time": self.time,
            "backlog": self.backlog,
            "dropped": self.dropped,
            "arrived": self.arrived,
            "latest_start": self._latest_start,
            "slot_job": self._slot_job,
            "penalties": self._penalties[:, :-1].T,
            "fits_now": self._fits_now,
            **self.jobs.state,
            **self.running.state,
        }
        if self.image is not None:
            self.state.update(self.image.state)

    def begin(
        self, envs: IntArray, lengths: IntArray, sizes: IntArray, palettes: FloatArray | None
    ) -> None:
        """Starts episodes: everything is empty, and nothing has arrived.

        Args:
            envs: int64 [k]
            lengths: int64 [k, simu_len], of the job that arrives at each time, 0 for none.
            sizes: int64 [k, simu_len, R]
            palettes: float64 [k, colours]; None without an image.
        """
        self.jobs.fill(envs, lengths, sizes)
        self.running.begin(envs)
        self.compact[envs] = self._empty
        self._slot_job[envs] = self.jobs.none
        self._penalties[:, envs] = 0.0
        for array in (self.time, self.backlog, self.dropped, self.arrived, self._latest_start):
            array[envs] = 0
        self._fits_now[envs, :-1] = False
        if self.image is not None and palettes is not None:
            self.image.begin(envs, palettes)

    def step(self, envs: IntArray, actions: IntArray) -> Outcome:
        """Places the job of a slot, or advances time (SPEC section 4).

        Args:
            envs: int64 [n], strictly increasing.
            actions: int64 [n], a slot, or num_nw for the void action.
        """
        slots = envs * (self._settings.num_nw + 1) + actions
        jobs = self._slot_job.take(slots)
        placing, starts = self._placeable(envs, slots, jobs)
        count = len(envs)
        outcome = Outcome(
            np.zeros(count),
            np.zeros(count, np.bool_),
            np.zeros(count, np.bool_),
            np.ones(count, np.bool_),
        )
        if placing.size:
            self._place(envs[placing], actions[placing], slots[placing], jobs[placing], starts)
            outcome.time_advanced[placing] = False
        moving = outcome.time_advanced.nonzero()[0]
        if moving.size:
            reward, terminated, truncated = self._advance(envs[moving])
            outcome.reward[moving] = reward
            outcome.terminated[moving] = terminated
            outcome.truncated[moving] = truncated
        if self._tracks_fits:
            self._update_fits(envs)
        return outcome

    def mask(self, kind: str, rows: IntArray | slice) -> BoolArray:
        """What the actions would do, bool [n, M + 1]; the void action is always allowed.

        Args:
            kind: ``occupied`` for slots that hold a job, ``fits_horizon`` for those whose job can
                start within the horizon, ``fits_now`` for those whose job can start now; the
                last only if the settings show it.
            rows: the environments.
        """
        if kind == "fits_now":
            return self._fits_now[rows]
        occupied = self._slot_job[rows] != self.jobs.none
        occupied[:, -1] = True
        if kind == "fits_horizon":
            occupied[:, :-1] = self._fitting.fits_horizon(self._free[rows], self._slots[rows])
        return occupied

    def slot_jobs(self, env: int) -> IntArray:
        """The job in each slot of one environment, int64 [M]; ``jobs.none`` where it is empty."""
        return self._slot_job[env, :-1]

    def _placeable(
        self, envs: IntArray, slots: IntArray, jobs: IntArray
    ) -> tuple[IntArray, IntArray | None]:
        """Positions in ``envs`` whose job can be placed, and at which offset; None: all now."""
        there = jobs != self.jobs.none
        # With impossible_jobs=reference the mask is not about what can be placed.
        if not self._tracks_fits or self._settings.impossible_jobs == "reference":
            search, now = there.nonzero()[0], None
        else:
            fits = self._fits_now.take(slots)
            fits &= there
            now, search = fits.nonzero()[0], (there > fits).nonzero()[0]
            if not search.size:
                return now, None
        flat = self.jobs.flat(envs[search], jobs[search])
        features = self.jobs.features_of(flat)
        offsets = self._fitting.earliest(
            self._free[envs[search]], features[:, 1:], self.jobs.length.take(flat)
        )
        found = offsets >= 0
        search, offsets = search[found], offsets[found]
        if now is None:
            return search, offsets
        if not search.size:
            return now, None
        return np.concatenate([now, search]), np.concatenate([np.zeros_like(now), offsets])

    def _place(
        self,
        envs: IntArray,
        slots: IntArray,
        flat_slots: IntArray,
        jobs: IntArray,
        starts: IntArray | None,
    ) -> None:
        table = self.jobs
        flat = table.flat(envs, jobs)
        features = table.features_of(flat)
        lengths = table.length.take(flat)
        times = self.time.take(envs)
        ends = lengths if starts is None else starts + lengths
        plan = self.compact.take(envs, axis=0)[:, : self._layout.plan]
        plan = plan.reshape(len(envs), -1, self._settings.time_horizon)
        if self.image is not None:
            begins = np.zeros_like(ends) if starts is None else starts
            self.image.paint(envs, features, plan[:, 1:], times, begins, ends)

        change = features.copy()
        change[:, 0] = -1.0
        until_end = self._rows_below.take(ends, axis=0)
        plan -= change[:, :, None] * until_end[:, None, :]
        if starts is None:
            table.place(flat, times, times + ends)
        else:
            before = self._rows_below.take(starts, axis=0)
            plan[:, 1:] += change[:, 1:, None] * before[:, None, :]
            table.place(flat, times + starts, times + ends)
            self._latest_start[envs] = np.maximum(self._latest_start[envs], times + starts)
        self.compact[envs, : self._layout.plan] = plan.reshape(len(envs), -1)
        self.running.start(envs, jobs, lengths, ends)
        self._refill(envs, slots, flat_slots)

    def _refill(self, envs: IntArray, slots: IntArray, flat_slots: IntArray) -> None:
        """Moves the head of the backlog into each slot, if there is one; else empties it."""
        backlog = self.backlog.take(envs)
        waiting = backlog > 0
        jobs = np.where(waiting, self.arrived.take(envs) - backlog, self.jobs.none)
        self._fill_slots(envs, slots, flat_slots, jobs)
        some = waiting.nonzero()[0]
        if some.size:
            self._set_backlog(envs[some], backlog[some] - 1)

    def _fill_slots(
        self, envs: IntArray, slots: IntArray, flat_slots: IntArray, jobs: IntArray
    ) -> None:
        flat = self.jobs.flat(envs, jobs)
        features = self.jobs.features_of(flat)
        self._slot_job.put(flat_slots, jobs)
        self._slots[envs, slots] = features
        self._penalties[1 + slots, envs] = self._hold.take(self.jobs.length.take(flat))
        if self.image is not None:
            self.image.set_slots(envs, slots, features)

    def _set_backlog(self, envs: IntArray, counts: IntArray) -> None:
        self.backlog[envs] = counts
        self._backlog_seen[envs] = counts
        if self.image is not None:
            self.image.set_backlog(envs, counts)

    def _advance(self, envs: IntArray) -> tuple[FloatArray, BoolArray, BoolArray]:
        settings = self._settings
        horizon, plan = settings.time_horizon, self._layout.plan
        # One shift moves every row of the plan; what it carries over from the next is replaced.
        shifted = self.compact.take(envs, axis=0)[:, 1 : plan + 1]
        shifted[:, horizon - 1 :: horizon] = self._new_row
        self.compact[envs, :plan] = shifted
        times = self.time.take(envs) + 1
        self.time[envs] = times
        self._penalties[0, envs] = self.running.advance(envs, times, self._jobs_left)
        if self.image is not None:
            self.image.advance(envs)

        truncated = np.zeros(len(envs), np.bool_)
        if settings.end == "all_done":
            truncated = times > settings.episode_max_length
        # Nothing arrives from simu_len on, so of the ways to end only this keeps a job out.
        self._admit(envs, times, truncated)
        reward = np.add.reduce(self._penalties, axis=0).take(envs)
        self._add_backlog_penalty(envs, reward)
        over = times >= settings.simu_len
        if settings.end == "all_done":
            late = over.nonzero()[0]
            if late.size:
                over[late] = self._nothing_left(envs[late])
                truncated &= ~over
        if self.image is not None:
            self.image.set_since(envs, times)
        return reward, over, truncated

    def _nothing_left(self, envs: IntArray) -> BoolArray:
        empty = (self._slot_job[envs] == self.jobs.none).all(axis=1)
        return empty & (self.running.count(envs) == 0)

    def _admit(self, envs: IntArray, times: IntArray, truncated: BoolArray) -> None:
        """Takes in the jobs that arrive now: into the first empty slot, the backlog, or nowhere."""
        jobs = self.arrived.take(envs)
        arrives = self.jobs.enter.take(self.jobs.flat(envs, jobs)) == times
        arrives &= ~truncated
        some = arrives.nonzero()[0]
        if not some.size:
            return
        envs, jobs = envs[some], jobs[some]
        if self.image is not None:
            self.image.arrive(envs, times[some])
        # The void slot is always empty; it comes first only if no other slot is.
        slots = (self._slot_job.take(envs, axis=0) == self.jobs.none).argmax(axis=1)
        admitted = envs
        full = (slots == self._settings.num_nw).nonzero()[0]
        if full.size:
            waiting = self.backlog.take(envs[full])
            room = waiting < self._settings.backlog_size
            self._set_backlog(envs[full[room]], waiting[room] + 1)
            lost = full[~room]
            if lost.size:
                self.jobs.drop(envs[lost], jobs[lost])
                self.dropped[envs[lost]] += 1
                admitted = np.delete(envs, lost)
            placed = (slots < self._settings.num_nw).nonzero()[0]
            envs, jobs, slots = envs[placed], jobs[placed], slots[placed]
        self.arrived[admitted] += 1
        flat_slots = envs * (self._settings.num_nw + 1) + slots
        self._fill_slots(envs, slots, flat_slots, jobs)

    def _add_backlog_penalty(self, envs: IntArray, reward: FloatArray) -> None:
        """Adds to ``reward`` in place, job by job in the order of the backlog."""
        backlog = self.backlog.take(envs)
        some = backlog.nonzero()[0]
        if not some.size:
            return
        envs, backlog = envs[some], backlog[some]
        places = np.arange(int(backlog.max()))[:, None]
        head = self.jobs.flat(envs, self.arrived.take(envs) - backlog)
        there = places < backlog
        lengths = self.jobs.length.take(np.where(there, head + places, head)) * there
        # The last column as in ``_penalties``.
        terms = np.zeros((1 + len(places), len(some) + 1))
        terms[0, :-1] = reward[some]
        terms[1:, :-1] = self._dismiss.take(lengths)
        reward[some] = np.add.reduce(terms, axis=0)[:-1]

    def _update_fits(self, envs: IntArray) -> None:
        rows = as_slice(envs)
        fits = self._fits_now[rows, :-1]
        ahead = self._latest_start[rows] > self.time[rows]
        self._fitting.fits_now(self._free[rows], self._slots[rows], ahead, fits)
        if not isinstance(rows, slice):
            self._fits_now[rows, :-1] = fits


def as_slice(envs: IntArray) -> IntArray | slice:
    """The same rows as a slice where they have no gap: arrays are then viewed, not copied."""
    if len(envs) and envs[-1] - envs[0] == len(envs) - 1:
        return slice(int(envs[0]), int(envs[-1]) + 1)
    return envs
