"""What a client may choose about DeepRM, and the settings that follow from its choices."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, Sequence, Text

from simserver.simulator import Parameter

_BY_MODE = "by_mode"
_CHARACTERS = string.ascii_lowercase + "_"


def _count(
    name: str,
    default: int,
    description: str,
    *,
    low: int = 1,
    high: int = 10_000,
    unit: str = "",
    per_episode: bool = False,
) -> Parameter:
    space: Space[Any] = Discrete(high - low + 1, start=low)
    return Parameter(name, space, default, description, unit, per_episode=per_episode)


def _choice(name: str, choices: tuple[str, ...], default: str, description: str) -> Parameter:
    return Parameter(name, Text(32, charset=_CHARACTERS), default, description, choices=choices)


def _quirk(name: str, choices: tuple[str, ...], description: str) -> Parameter:
    return _choice(name, (_BY_MODE, *choices), _BY_MODE, description)


def _switch(name: str, description: str) -> Parameter:
    return Parameter(name, Discrete(2), 0, description)


def _penalty(name: str, description: str) -> Parameter:
    return Parameter(name, Box(-1e6, 1e6, (), np.float64), np.array(-1.0), description)


PARAMETERS: tuple[Parameter, ...] = (
    _count("simu_len", 50, "time steps of a job sequence; arrivals can be at 1 to simu_len - 1"),
    _count("num_res", 2, "resources", high=16),
    _count("num_nw", 10, "visible job slots", high=1000),
    _count("time_horizon", 20, "time steps of the cluster that are planned", low=2, high=1000),
    _count("max_job_len", 15, "longest job", high=1000, unit="time steps"),
    _count("res_slot", 10, "capacity of each resource", high=1000),
    _count("max_job_size", 10, "most that a job may ask of a resource", high=1000),
    _count("backlog_size", 60, "jobs that can wait behind the slots; further ones are dropped"),
    _count("max_track_since_new", 10, "cap of the time since the last arrival, in the image"),
    _count("job_num_cap", 40, "number of colours in the image, plus one", low=2),
    Parameter(
        "new_job_rate",
        Box(0.0, 1.0, (2,), np.float64),
        np.array([0.7, 0.7]),
        "chance of an arrival in a time step: each episode draws it between (low, high)",
        per_episode=True,
    ),
    _count(
        "episode_max_length",
        2000,
        "with end=all_done: an episode is truncated when its clock passes this",
        high=10**9,
        unit="time steps",
    ),
    _count("action_limit", 0, "actions until an episode is truncated; 0: none", low=0, high=10**9),
    _penalty("delay_penalty", "reward per time step of a running job, divided by its length"),
    _penalty("hold_penalty", "reward per time step of a job in a slot, divided by its length"),
    _penalty("dismiss_penalty", "reward per time step of a backlogged job, divided by its length"),
    _choice(
        "end",
        ("no_new_job", "all_done"),
        "all_done",
        "an episode terminates when the sequence is over, or when its jobs are done as well",
    ),
    _choice("observation", ("compact", "image", "both"), "compact", "what the agent sees"),
    _switch("normalize_compact", "1: divide the compact observation by capacity, length and size"),
    _choice(
        "action_mask",
        ("fits_now", "fits_horizon", "occupied", "none"),
        "fits_now",
        "slots allowed: the job can start now, can start within the horizon, or is there",
    ),
    _switch("masks_in_info", "1: the masks fits_now and fits_horizon come as infos"),
    _choice(
        "jobs",
        ("generated", "legacy"),
        "generated",
        "sequences from each environment's own stream, or NumPy's legacy generator, bit for bit",
    ),
    _count(
        "num_ex",
        0,
        "sequences that an environment takes turns with; 0: a new one for each episode",
        low=0,
        high=10**6,
    ),
    _count(
        "seq_seed",
        42,
        "of the legacy generator, the same for all environments",
        low=0,
        high=2**32 - 1,
    ),
    _choice("sequence_order", ("cycle", "random"), "cycle", "in which the num_ex sequences come"),
    _count(
        "sequence_index",
        -1,
        "the sequence to take; -1: by sequence_order",
        low=-1,
        high=10**9,
        per_episode=True,
    ),
    Parameter(
        "job_lengths",
        Sequence(Discrete(1001), stack=True),
        np.zeros(0, np.int64),
        "the job sequence: length of the arrival at each time step, 0 for none; "
        "entry 0 is before the first step and never used; empty: not given",
        "time steps",
        per_episode=True,
    ),
    Parameter(
        "job_sizes",
        Sequence(Discrete(1001), stack=True),
        np.zeros(0, np.int64),
        "what each entry of job_lengths asks: num_res numbers for the first, then the second, ...",
        per_episode=True,
    ),
    Parameter(
        "job_colors",
        Sequence(Box(0.0, 1.0, (), np.float64), stack=True),
        np.zeros(0, np.float64),
        "colours of the image in order of use, as many as job_num_cap gives; empty: not given",
        per_episode=True,
    ),
    _choice(
        "mode",
        ("mended", "reference"),
        "mended",
        "what by_mode means below: mended behaviour, or that of the original program",
    ),
    _quirk(
        "running_removal",
        ("exact", "reference"),
        "finished jobs leave at once (exact, mended), or some linger on as in the original",
    ),
    _quirk(
        "colors",
        ("seeded", "legacy", "binary"),
        "order of the image's colours: each environment's own stream (mended), NumPy's legacy "
        "generator (reference), or 1 for whatever is occupied",
    ),
    _quirk(
        "impossible_jobs",
        ("reject", "masked", "reference"),
        "sizes of jobs that never fit: an error (mended), allowed and masked, or allowed and "
        "judged by fits_now on the visible time steps only (reference)",
    ),
)

#: What ``by_mode`` stands for, by quirk and mode.
_MODES: dict[str, dict[str, str]] = {
    "running_removal": {"mended": "exact", "reference": "reference"},
    "colors": {"mended": "seeded", "reference": "legacy"},
    "impossible_jobs": {"mended": "reject", "reference": "reference"},
}


@dataclass(frozen=True)
class Settings:
    """The options that hold for a simulator's life, resolved and checked.

    Attributes are the parameters of the same names; ``mode`` has been resolved into the quirks.
    """

    simu_len: int
    num_res: int
    num_nw: int
    time_horizon: int
    max_job_len: int
    res_slot: int
    max_job_size: int
    backlog_size: int
    max_track_since_new: int
    job_num_cap: int
    episode_max_length: int
    action_limit: int
    delay_penalty: float
    hold_penalty: float
    dismiss_penalty: float
    end: str
    observation: str
    normalize_compact: bool
    action_mask: str
    masks_in_info: bool
    jobs: str
    num_ex: int
    seq_seed: int
    sequence_order: str
    running_removal: str
    colors: str
    impossible_jobs: str

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Settings:
        """Settings from a value for every parameter.

        Raises:
            ValueError: the values do not go together; the message says what to change.
        """
        chosen = dict(options)
        mode = chosen["mode"]
        for quirk, meaning in _MODES.items():
            if chosen[quirk] == _BY_MODE:
                chosen[quirk] = meaning[mode]
        kinds = {"int": int, "float": float, "str": str, "bool": bool}
        settings = cls(
            **{
                name: kinds[str(field.type)](chosen[name])
                for name, field in cls.__dataclass_fields__.items()
            }
        )
        settings._check()
        return settings

    def _check(self) -> None:
        if self.impossible_jobs == "reject":
            if self.max_job_len >= self.time_horizon:
                raise ValueError(
                    f"max_job_len {self.max_job_len} must be less than time_horizon "
                    f"{self.time_horizon}, or the longest jobs never fit; "
                    "impossible_jobs=masked allows them"
                )
            if self.max_job_size > self.res_slot:
                raise ValueError(
                    f"max_job_size {self.max_job_size} must not exceed res_slot {self.res_slot}, "
                    "or the widest jobs never fit; impossible_jobs=masked allows them"
                )
        if self.jobs == "legacy":
            if self.num_ex < 1:
                raise ValueError("jobs=legacy has a fixed number of sequences: set num_ex >= 1")
            if self.max_job_len < 5 or self.max_job_size < 5:
                raise ValueError(
                    "jobs=legacy divides max_job_len and max_job_size by 5: set both to 5 or more"
                )

    @property
    def backlog_width(self) -> int:
        """Columns of the image for the backlog."""
        return -(-self.backlog_size // self.time_horizon)

    @property
    def image_width(self) -> int:
        """Columns of the image; its rows are ``time_horizon``."""
        slots = self.max_job_size * self.num_nw
        return (self.res_slot + slots) * self.num_res + self.backlog_width + 1

    @property
    def compact_length(self) -> int:
        """Numbers in the compact observation."""
        return (self.num_res + 1) * (self.time_horizon + self.num_nw) + 1

    @property
    def sees_image(self) -> bool:
        """Whether observations contain the image."""
        return self.observation != "compact"

    @property
    def num_actions(self) -> int:
        """One for each slot, and the void action."""
        return self.num_nw + 1

    def fingerprint(self) -> dict[str, Any]:
        """All settings, for JSON: saved states belong to simulators with the same."""
        return asdict(self)
