"""Recordings of the original DeepRM, read for replaying.

The folder is ``deeprm`` under the environment variable ``FARSIM_REFERENCE``, by default the copy
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

#: Parameters of a recording that are options of the simulator under the same name.
_OPTIONS = (
    "simu_len",
    "num_res",
    "num_nw",
    "time_horizon",
    "max_job_len",
    "res_slot",
    "max_job_size",
    "backlog_size",
    "max_track_since_new",
    "job_num_cap",
    "episode_max_length",
    "delay_penalty",
    "hold_penalty",
    "dismiss_penalty",
    "end",
    "num_ex",
    "seq_seed",
)
#: What a recording calls the rules of removal, and what the simulator does.
_REMOVAL = {"reference": "reference", "strict": "exact"}


def folder() -> Path:
    """Where the recordings are."""
    root = os.environ.get("FARSIM_REFERENCE")
    default = Path(__file__).parents[1] / "data" / "reference"
    return (Path(root) if root else default) / "deeprm"


@dataclass(frozen=True)
class Trace:
    """One file: E episodes one after another, T steps in total.

    Attributes:
        path: of the file.
        arrays: everything in it but the parameters, by name.
        params: the parameters, by the original's names.
    """

    path: Path
    arrays: dict[str, NDArray[Any]]
    params: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Trace:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return cls(path, arrays, json.loads(str(arrays.pop("params_json"))))

    def __getattr__(self, name: str) -> NDArray[Any]:
        """A recorded array by its name in the file."""
        try:
            return self.__dict__["arrays"][name]
        except KeyError:
            raise AttributeError(f"{self.__class__.__name__} has no array {name}") from None

    @property
    def has_image(self) -> bool:
        return "obs_image" in self.arrays

    @property
    def num_episodes(self) -> int:
        return len(self.episode_num_steps)

    @cached_property
    def first_steps(self) -> NDArray[np.int64]:
        """int64 [E + 1], where each episode's steps begin, and T."""
        return np.concatenate([[0], np.cumsum(self.episode_num_steps, dtype=np.int64)])

    @cached_property
    def first_observations(self) -> NDArray[np.int64]:
        """int64 [E], where each episode's reset observation is; one for each step follows."""
        return self.first_steps[:-1] + np.arange(self.num_episodes)

    def steps(self, episode: int) -> slice:
        """The rows of one episode's steps."""
        return slice(int(self.first_steps[episode]), int(self.first_steps[episode + 1]))

    def jobs_of(self, episode: int) -> NDArray[np.int32]:
        """int32 [n, 5 + R]: the jobs of one episode, from the id on."""
        return self.arrays["jobs"][self.arrays["jobs"][:, 0] == episode, 1:]

    def options(self) -> dict[str, Any]:
        """Options that open the simulator as it was recorded, with everything recorded in view."""
        rate = float(self.params["new_job_rate"])
        return {
            **{name: self.params[name] for name in _OPTIONS},
            "new_job_rate": np.array([rate, rate]),
            "mode": "reference",
            "running_removal": _REMOVAL[self.params["running_removal"]],
            "observation": "both" if self.has_image else "compact",
            "masks_in_info": 1,
        }

    def episode_options(self, episode: int) -> dict[str, Any]:
        """Per-episode options that give one episode the sequence and the colours recorded."""
        sequence = int(self.episode_seq_no[episode])
        return {
            "job_lengths": self.nw_len_seqs[sequence].astype(np.int64),
            "job_sizes": self.nw_size_seqs[sequence].astype(np.int64).reshape(-1),
            "job_colors": np.asarray(self.colormap[episode], np.float64),
        }


def trace_paths() -> list[Path]:
    """Every file of the folder that is a trace."""
    return [path for path in sorted(folder().glob("*.npz")) if path.name != SEQUENCES]


#: The file of sequences, which is no trace.
SEQUENCES = "sequences_legacy_rng.npz"


def sequences() -> list[tuple[dict[str, Any], dict[str, NDArray[Any]]]]:
    """The legacy generator's sequences: parameters, and ``len``, ``size`` and ``colormaps``."""
    path = folder() / SEQUENCES
    if not path.exists():
        return []
    with np.load(path) as archive:
        return [
            (
                meta,
                {name: archive[f"{name}_{meta['index']}"] for name in ("len", "size", "colormaps")},
            )
            for meta in json.loads(str(archive["meta_json"]))
        ]
