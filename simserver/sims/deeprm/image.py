"""The image observation, kept up to date as jobs come, go and are placed."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from simserver.sims.deeprm.parameters import Settings
from simserver.simulator import FloatArray, IntArray


def palette(settings: Settings) -> FloatArray:
    """float64: the original's colours, unshuffled."""
    return np.arange(1 / settings.job_num_cap, 1, 1 / settings.job_num_cap)


class Image:
    """The pictures of all environments (SPEC section 5).

    Attributes:
        pixels: float32 [num_envs, H, width]; rows are time steps ahead. From left to right: for
            each resource the cluster and the slots, then the backlog, then the time since the
            last arrival.
        state: the arrays by name, each with a leading environment dimension.
    """

    def __init__(self, settings: Settings, num_envs: int) -> None:
        height, capacity = settings.time_horizon, settings.res_slot
        slots, widest = settings.num_nw, settings.max_job_size
        self._cap = settings.max_track_since_new
        self._binary = settings.colors == "binary"
        self.pixels = np.zeros((num_envs, height, settings.image_width), np.float32)
        self._canvas, self._slots = [], []
        for resource in range(settings.num_res):
            left = resource * (capacity + slots * widest)
            middle, right = left + capacity, left + capacity + slots * widest
            self._canvas.append(self.pixels[:, :, left:middle])
            blocks = self.pixels[:, :, middle:right].reshape(num_envs, height, slots, widest)
            self._slots.append(blocks.transpose(0, 2, 1, 3))
        self._backlog = self.pixels[:, :, right : right + settings.backlog_width]
        self._since = self.pixels[:, :, -1]

        colors = len(palette(settings))
        self._palette = np.zeros((num_envs, colors))
        # Until when a colour is on the canvas; it is free from that time on.
        self._color_until = np.zeros((num_envs, colors), np.int64)
        self._last_arrival = np.zeros(num_envs, np.int64)
        self.state: dict[str, NDArray[Any]] = {
            "pixels": self.pixels,
            "palette": self._palette,
            "color_until": self._color_until,
            "last_arrival": self._last_arrival,
        }
        self._height = height
        self._columns = np.arange(max(capacity, widest))
        self._rows = np.arange(height)
        self._backlog_cells = np.arange(height * settings.backlog_width).reshape(height, -1)

    def space(self) -> Box:
        """Of the observation."""
        return Box(0.0, 1.0, self.pixels.shape[1:], np.float32)

    def begin(self, envs: IntArray, palettes: FloatArray) -> None:
        """Empties the pictures; float64 [k, colours] are the colours in order of use."""
        self.pixels[envs] = 0.0
        self._palette[envs] = palettes
        self._color_until[envs] = 0
        self._last_arrival[envs] = 0

    def paint(
        self,
        envs: IntArray,
        features: NDArray[np.float32],
        free: NDArray[np.float32],
        times: IntArray,
        starts: IntArray,
        ends: IntArray,
    ) -> None:
        """Paints one placed job into each canvas, in the leftmost free cells of its rows.

        Args:
            envs: int64 [k]
            features: [k, 1 + R], length and sizes.
            free: [k, R, H], the free units before the job.
            times: int64 [k], the clocks.
            starts: int64 [k], the job's first row.
            ends: int64 [k], the row after its last.
        """
        colors = self._take_colors(envs, features, times, times + ends)
        window = (self._rows >= starts[:, None]) & (self._rows < ends[:, None])
        which, rows = window.nonzero()
        for resource, canvas in enumerate(self._canvas):
            capacity = canvas.shape[2]
            # Cells are freed by whole rows only, so the used ones are always the leftmost.
            used = capacity - free[which, resource, rows][:, None]
            columns = self._columns[:capacity]
            cells = (columns >= used) & (columns < used + features[which, 1 + resource, None])
            at = envs[which]
            canvas[at, rows] = np.where(cells, colors[which, None], canvas[at, rows])

    def _take_colors(
        self, envs: IntArray, features: NDArray[np.float32], times: IntArray, finish: IntArray
    ) -> FloatArray:
        if self._binary:
            return np.ones(len(envs))
        until = self._color_until[envs]
        # All in use: the first is taken again, where the original raises (SPEC quirk Q6).
        color = (until <= times[:, None]).argmax(axis=1)
        before = until[np.arange(len(envs)), color]
        painted = features[:, 1:].any(axis=1)
        self._color_until[envs, color] = np.where(painted, np.maximum(before, finish), before)
        return self._palette[envs, color]

    def set_slots(self, envs: IntArray, slots: IntArray, features: NDArray[np.float32]) -> None:
        """Draws one job, [k, 1 + R], into a slot of each environment; zeros empty the slot."""
        rows = self._rows < features[:, 0, None]
        for resource, blocks in enumerate(self._slots):
            columns = self._columns[: blocks.shape[3]] < features[:, 1 + resource, None]
            blocks[envs, slots] = rows[:, :, None] & columns[:, None, :]

    def set_backlog(self, envs: IntArray, counts: IntArray) -> None:
        """Draws the number of jobs in the backlog, row by row."""
        self._backlog[envs] = self._backlog_cells < counts[:, None, None]

    def advance(self, envs: IntArray) -> None:
        """Moves the canvases up by a time step."""
        for canvas in self._canvas:
            canvas[envs, :-1] = canvas[envs, 1:]
            canvas[envs, -1] = 0.0

    def arrive(self, envs: IntArray, times: IntArray) -> None:
        """A job has arrived in ``envs``, be it dropped or not."""
        self._last_arrival[envs] = times

    def set_since(self, envs: IntArray, times: IntArray) -> None:
        """Draws the time since the last arrival."""
        since = np.minimum(times - self._last_arrival[envs], self._cap)
        self._since[envs] = (since / self._cap)[:, None]
