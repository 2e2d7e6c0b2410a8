"""Recordings of mpe2's particle environments, read for replaying.

The folder is ``particle`` under the environment variable ``FARSIM_REFERENCE``, by default the copy
in this repository. Its README.md describes the arrays.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def folder() -> Path:
    """Where the recordings are."""
    root = os.environ.get("FARSIM_REFERENCE")
    default = Path(__file__).parents[1] / "data" / "reference"
    return (Path(root) if root else default) / "particle"


def trace_paths() -> list[Path]:
    return sorted(folder().glob("*.npz"))


@dataclass(frozen=True)
class Trace:
    """One file: S seeds, K episodes for each, at most T steps.

    Attributes:
        path: of the file.
        arrays: everything in it, by name.
        meta: what it was recorded with.
    """

    path: Path
    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Trace:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return cls(path, arrays, json.loads(str(arrays["meta"])))

    @property
    def scenario(self) -> str:
        """The catalogue's name: mpe2's module without its version."""
        return f"particle/{self.meta['module'].rpartition('_v')[0]}"

    @cached_property
    def agents(self) -> list[str]:
        return [str(name) for name in self.arrays["agents"]]

    @property
    def seeds(self) -> list[int]:
        return [int(seed) for seed in self.arrays["seeds"]]

    @property
    def num_episodes(self) -> int:
        """For each seed."""
        return self.arrays["lengths"].shape[1]

    def options(self) -> dict[str, Any]:
        """Options that open the simulator as it was recorded."""
        kwargs = {
            name: int(value) if isinstance(value, bool) else value
            for name, value in self.meta["kwargs"].items()
        }
        mode = "continuous" if self.meta["continuous_actions"] else "discrete"
        return {**kwargs, "action_mode": mode}


#: Whose penalty for going off is an exponential. NumPy's has other last bits on processors with
#: AVX-512, where these were recorded, than on those without.
EXPONENTIAL = ("simple_tag", "simple_world_comm")


def assert_recorded_values(
    scenario: str, key: str, values: np.ndarray, recorded: np.ndarray
) -> None:
    """Equal to the last bit, but for rewards that are made of exponentials."""
    if key == "rewards" and scenario.rpartition("/")[2].startswith(EXPONENTIAL):
        np.testing.assert_allclose(values, recorded, rtol=1e-14, atol=1e-14, err_msg=key)
    else:
        np.testing.assert_array_equal(values, recorded, key)
