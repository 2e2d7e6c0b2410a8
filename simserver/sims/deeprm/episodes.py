"""What each environment's next episode is made of: its job sequence, its rate, its colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserver.sims.deeprm import jobs
from simserver.sims.deeprm.image import palette
from simserver.sims.deeprm.parameters import Settings
from simserver.sims.deeprm.streams import Streams
from simserver.simulator import BatchedValue, FloatArray, IntArray


@dataclass
class Start:
    """New episodes of k environments.

    Attributes:
        lengths: int64 [k, simu_len]
        sizes: int64 [k, simu_len, R]
        palettes: float64 [k, colours]; None without an image.
        options: the per-episode parameters drawn, as ``Batch.episode_options`` wants them.
    """

    lengths: IntArray
    sizes: IntArray
    palettes: FloatArray | None
    options: dict[str, BatchedValue]


class EpisodeSource:
    """Per-episode options and random streams of all environments.

    Sequence number i of an environment is a function of its stream and i alone, so that
    ``num_ex`` fixed sequences need not be kept.

    Args:
        settings: of the simulator.
        num_envs: how many environments.
        options: the per-episode parameters' values until a reset gives others.

    Attributes:
        state: the arrays by name, each with a leading environment dimension.

    Raises:
        ValueError: ``options`` do not go with ``settings``.
    """

    def __init__(self, settings: Settings, num_envs: int, options: Mapping[str, Any]) -> None:
        self._settings = settings
        self._streams = Streams(num_envs)
        self._colors = palette(settings)
        self._episode = np.zeros(num_envs, np.int64)
        self._rate = np.zeros((num_envs, 2))
        self._index = np.full(num_envs, -1)
        self._given = np.zeros(num_envs, np.bool_)
        self._given_lengths = np.zeros((num_envs, settings.simu_len), np.int64)
        self._given_sizes = np.zeros((num_envs, settings.simu_len, settings.num_res), np.int64)
        self._given_colors = np.zeros(num_envs, np.bool_)
        self._own_colors = np.zeros((num_envs, len(self._colors)))
        self.state: dict[str, NDArray[Any]] = {
            "stream": self._streams.keys,
            "episode": self._episode,
            "rate": self._rate,
            "index": self._index,
            "given": self._given,
            "given_lengths": self._given_lengths,
            "given_sizes": self._given_sizes,
            "given_colors": self._given_colors,
            "own_colors": self._own_colors,
        }

        low, high = np.asarray(options["new_job_rate"], np.float64)
        self._legacy_rate = float(low)
        random = np.random.RandomState(settings.seq_seed)
        if settings.jobs == "legacy":
            if low != high:
                raise ValueError("jobs=legacy has one rate: give new_job_rate twice the same")
            self._lengths, self._sizes, random = jobs.legacy_sequences(settings, self._legacy_rate)
        if settings.sees_image and settings.colors == "legacy":
            self._random = random
            _, key, position, *_ = random.get_state()
            self._legacy_start = (np.asarray(key, np.uint32), int(position))
            self._legacy_key = np.tile(self._legacy_start[0], (num_envs, 1))
            self._legacy_position = np.full(num_envs, position)
            self.state["legacy_key"] = self._legacy_key
            self.state["legacy_position"] = self._legacy_position
        envs = np.arange(num_envs)
        # Sequences are batched as one array for each row; other values as an array over rows.
        rows = {name: [options[name]] * num_envs for name in _PER_EPISODE}
        self._hold(envs, self._checked(rows))

    def start(
        self, envs: IntArray, seeds: Sequence[int] | None, options: Mapping[str, BatchedValue]
    ) -> Start:
        """The next episodes of ``envs``; see ``BatchSimulator.reset``.

        Raises:
            ValueError: the options do not go with the settings; nothing has changed then.
        """
        checked = self._checked(options)
        self._hold(envs, checked)
        if seeds is not None:
            self._streams.seed(envs, seeds)
            self._episode[envs] = 0
            if "legacy_key" in self.state:
                self._legacy_key[envs], self._legacy_position[envs] = self._legacy_start
        indices = self._choose(envs)
        rates = np.empty(len(envs))
        if self._settings.jobs == "legacy":
            lengths, sizes = self._lengths[indices], self._sizes[indices]
            rates[:] = self._legacy_rate
        else:
            needed = jobs.draws_needed(self._settings)
            uniform = self._streams.uniform(envs, indices, "sequence", 1 + needed)
            low, high = self._rate[envs].T
            rates = low + (high - low) * uniform[:, 0]
            lengths, sizes = jobs.generate(self._settings, uniform[:, 1:], rates)
        given = self._given[envs].nonzero()[0]
        if given.size:
            lengths[given] = self._given_lengths[envs[given]]
            sizes[given] = self._given_sizes[envs[given]]
            indices[given] = -1
        palettes = self._draw_colors(envs) if self._settings.sees_image else None
        self._episode[envs] += 1
        drawn = {"new_job_rate": np.stack([rates, rates], axis=1), "sequence_index": indices}
        return Start(lengths, sizes, palettes, drawn)

    def _choose(self, envs: IntArray) -> IntArray:
        chosen = self._index[envs]
        episode, count = self._episode[envs], self._settings.num_ex
        if count == 0:
            next_ones = episode
        elif self._settings.sequence_order == "cycle":
            next_ones = episode % count
        else:
            uniform = self._streams.uniform(envs, episode, "order", 1)[:, 0]
            next_ones = (uniform * count).astype(np.int64)
        return np.where(chosen >= 0, chosen, next_ones)

    def _draw_colors(self, envs: IntArray) -> FloatArray:
        count = len(self._colors)
        if self._settings.colors == "seeded":
            uniform = self._streams.uniform(envs, self._episode[envs], "colors", count)
            palettes = self._colors[np.argsort(uniform, axis=1)]
        else:
            palettes = np.tile(self._colors, (len(envs), 1))
        if self._settings.colors == "legacy":
            for row, env in enumerate(envs.tolist()):
                state = ("MT19937", self._legacy_key[env], int(self._legacy_position[env]), 0, 0.0)
                self._random.set_state(state)
                self._random.shuffle(palettes[row])
                _, self._legacy_key[env], self._legacy_position[env], *_ = self._random.get_state()
        given = self._given_colors[envs].nonzero()[0]
        palettes[given] = self._own_colors[envs[given]]
        return palettes

    def _checked(self, options: Mapping[str, BatchedValue]) -> dict[str, list[Any]]:
        """Options by name and row, checked and converted."""
        checked: dict[str, list[Any]] = {}
        if "new_job_rate" in options:
            checked["rate"] = [self._checked_rate(value) for value in options["new_job_rate"]]
        if "sequence_index" in options:
            checked["index"] = [self._checked_index(value) for value in options["sequence_index"]]
        if ("job_lengths" in options) != ("job_sizes" in options):
            raise ValueError("give job_lengths and job_sizes together, or neither")
        if "job_lengths" in options:
            rows = zip(options["job_lengths"], options["job_sizes"], strict=True)
            checked["sequence"] = [
                jobs.given_sequence(self._settings, np.asarray(lengths), np.asarray(sizes))
                if len(lengths) or len(sizes)
                else None
                for lengths, sizes in rows
            ]
        if "job_colors" in options:
            checked["colors"] = [self._checked_colors(value) for value in options["job_colors"]]
        return checked

    def _checked_rate(self, value: Any) -> FloatArray:
        rate = np.asarray(value, np.float64)
        if rate[0] > rate[1]:
            raise ValueError(f"new_job_rate is (low, high), not {tuple(rate.tolist())}")
        if self._settings.jobs == "legacy" and (rate != self._legacy_rate).any():
            raise ValueError(
                "with jobs=legacy the new_job_rate is fixed: give it when opening the session"
            )
        return rate

    def _checked_index(self, value: Any) -> int:
        count = self._settings.num_ex
        if count and int(value) >= count:
            raise ValueError(f"sequence_index is {int(value)} and num_ex only {count}")
        return int(value)

    def _checked_colors(self, value: Any) -> FloatArray | None:
        colors = np.asarray(value, np.float64)
        if not len(colors):
            return None
        if len(colors) != len(self._colors):
            raise ValueError(
                f"job_colors has {len(colors)} colours; job_num_cap "
                f"{self._settings.job_num_cap} needs {len(self._colors)}"
            )
        if len(np.unique(colors)) != len(colors):
            raise ValueError("job_colors must all be different")
        return colors

    def _hold(self, envs: IntArray, checked: Mapping[str, list[Any]]) -> None:
        if "rate" in checked:
            self._rate[envs] = checked["rate"]
        if "index" in checked:
            self._index[envs] = checked["index"]
        for env, sequence in zip(envs.tolist(), checked.get("sequence", ()), strict=False):
            self._given[env] = sequence is not None
            if sequence is not None:
                self._given_lengths[env], self._given_sizes[env] = sequence
        for env, colors in zip(envs.tolist(), checked.get("colors", ()), strict=False):
            self._given_colors[env] = colors is not None
            if colors is not None:
                self._own_colors[env] = colors


_PER_EPISODE = ("new_job_rate", "sequence_index", "job_lengths", "job_sizes", "job_colors")
