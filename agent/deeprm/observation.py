"""Reading DeepRM's compact observation, on the head's side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box
from numpy.typing import ArrayLike, NDArray


def is_deeprm(session_options: Mapping[str, Any]) -> bool:
    """Whether a simulator with these parameters is DeepRM, whatever its name on the server."""
    needed = {*CompactObservation.__dataclass_fields__, "observation", "simu_len", "new_job_rate"}
    return needed <= session_options.keys()


@dataclass(frozen=True)
class Cluster:
    """A batch of cluster states, in units and time steps.

    Attributes:
        jobs_left: float64 [n, H], running jobs that are left after k more steps.
        free: float64 [n, R, H], units of each resource that are free k steps ahead.
        lengths: float64 [n, M], of the job in each slot; 0 if the slot is empty.
        sizes: float64 [n, M, R], units that it asks for.
        backlog: float64 [n], jobs waiting behind the slots.
    """

    jobs_left: NDArray[np.float64]
    free: NDArray[np.float64]
    lengths: NDArray[np.float64]
    sizes: NDArray[np.float64]
    backlog: NDArray[np.float64]

    def fits_now(self) -> NDArray[np.bool_]:
        """Which slots have a job whose request is free in all its time steps from now: bool [n, M].

        Time steps beyond the horizon are not looked at, so a job as long as the horizon or longer
        can look fitting although it never does (quirk Q3 of the original).
        """
        horizon = self.free.shape[2]
        last = np.clip(self.lengths.astype(np.int64) - 1, 0, horizon - 1)
        least = np.minimum.accumulate(self.free, axis=2)
        over_job = np.take_along_axis(least, last[:, None, :], axis=2).transpose(0, 2, 1)
        return (self.lengths > 0) & np.all(over_job >= self.sizes, axis=2)


@dataclass(frozen=True)
class CompactObservation:
    """Where things are in the compact observation, and its scale.

    The attributes are DeepRM's parameters of the same names; ``normalize_compact`` says whether
    the observation comes divided by capacity, length and size.
    """

    num_res: int
    num_nw: int
    time_horizon: int
    max_job_len: int
    res_slot: int
    max_job_size: int
    backlog_size: int
    normalize_compact: bool = False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> CompactObservation:
        """The layout in a session with these options, which must hold every parameter."""
        numbers = {name: int(np.asarray(options[name])) for name in cls.__dataclass_fields__}
        normalized = bool(numbers.pop("normalize_compact"))
        return cls(**numbers, normalize_compact=normalized)

    def to_options(self) -> dict[str, int]:
        """The parameters as plain integers; ``from_options`` reads them back."""
        return {name: int(value) for name, value in asdict(self).items()}

    @property
    def length(self) -> int:
        """Numbers in the observation."""
        return (self.num_res + 1) * (self.time_horizon + self.num_nw) + 1

    def describes(self, space: Space[Any]) -> bool:
        """Whether observations of this space have this layout."""
        return isinstance(space, Box) and space.shape == (self.length,)

    def scale(self) -> NDArray[np.float32]:
        """float32 [length]: what each number is divided by with ``normalize_compact``."""
        horizon, slots = self.time_horizon, self.num_nw
        plan = np.full((1 + self.num_res) * horizon, self.res_slot)
        job = np.array([self.max_job_len, *[self.max_job_size] * self.num_res])
        return np.concatenate([plan, np.tile(job, slots), [self.backlog_size]]).astype(np.float32)

    def read(self, observation: ArrayLike) -> Cluster:
        """The cluster states in a batch of observations [n, length].

        Raises:
            ValueError: the observations have another length.
        """
        rows = np.asarray(observation, np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.length:
            raise ValueError(
                f"compact observations of {self.num_nw} slots, {self.num_res} resources and "
                f"{self.time_horizon} time steps have shape (n, {self.length}), not {rows.shape}"
            )
        if self.normalize_compact:
            rows = np.rint(rows * self.scale())
        horizon, resources, n = self.time_horizon, self.num_res, len(rows)
        plan = (1 + resources) * horizon
        slots = rows[:, plan:-1].reshape(n, self.num_nw, 1 + resources)
        return Cluster(
            jobs_left=rows[:, :horizon],
            free=rows[:, horizon:plan].reshape(n, resources, horizon),
            lengths=slots[:, :, 0],
            sizes=slots[:, :, 1:],
            backlog=rows[:, -1],
        )
